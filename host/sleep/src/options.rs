//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use wakevirt_service::bus::Address;
use wakevirt_service::logs::LogTo;

/// Put virtual machines to sleep with the host, and keep the host awake for them
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Read only this configuration file, not host.toml and host.d in /etc/wakevirt and /usr/lib/wakevirt
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Connect to this hypervisor
    #[arg(long, global = true, value_name = "URI", default_value = "qemu:///system")]
    pub(crate) connect: String,

    /// Message bus of logind and systemd: system, session, or a D-Bus address
    #[arg(long, global = true, value_name = "system|session|ADDRESS", default_value = "system")]
    pub(crate) bus: Address,

    /// Log destination
    #[arg(long, global = true, value_name = "WHERE", value_enum, default_value_t)]
    pub(crate) log_to: LogTo,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Keep the host awake while a domain with `nosleep` runs. Runs until it is stopped
    Inhibit,
    /// Put the running domains with `sleep` to sleep. Fails if the host must stay awake
    Suspend,
    /// Bring back the domains that `suspend` has put to sleep
    Resume,
    /// Save or shut down the running domains with `shutdown`, if the host is shutting down
    Shutdown,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn needs_a_command_and_defaults_to_the_system() {
        Options::command().debug_assert();
        let options = Options::try_parse_from(["wakevirt-sleep", "suspend"]).unwrap();
        assert_eq!((options.command, options.connect.as_str()), (Command::Suspend, "qemu:///system"));
        assert_eq!((options.bus, options.config), (Address::System, None));
        assert!(Options::try_parse_from(["wakevirt-sleep"]).is_err());
    }
}
