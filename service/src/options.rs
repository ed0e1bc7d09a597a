//! The options that both services have.

use std::path::PathBuf;

use crate::bus::Address;
use crate::logs::LogTo;

/// The options that both services have.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Read only this configuration file, not those in /etc/wakevirt and /usr/lib/wakevirt
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Message bus for the D-Bus interface: system, session, or a D-Bus address
    #[arg(long, value_name = "system|session|ADDRESS", default_value = "system")]
    pub bus: Address,

    /// Check the configuration, print either the complete configuration or the error, and exit
    #[arg(long)]
    pub check: bool,

    /// With --check: print only errors
    #[arg(long, requires = "check")]
    pub quiet: bool,

    /// Log destination
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    pub log_to: LogTo,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Options {
        #[command(flatten)]
        common: Common,
    }

    fn parse(line: &str) -> Result<Common, String> {
        Options::try_parse_from(line.split(' '))
            .map(|options| options.common)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_to_the_system_bus_and_the_standard_files() {
        Options::command().debug_assert();
        let common = parse("service").unwrap();
        assert_eq!(common.config, None);
        assert_eq!(common.bus, Address::System);
        assert!(!common.check && !common.quiet);
        assert_eq!(common.log_to, LogTo::Auto);
    }

    #[test]
    fn parses_every_option() {
        let common = parse("service --config /a.toml --bus session --check --quiet --log-to syslog").unwrap();
        assert_eq!(common.config, Some(PathBuf::from("/a.toml")));
        assert_eq!(common.bus, Address::Session);
        assert!(common.check && common.quiet);
        assert_eq!(common.log_to, LogTo::Syslog);
    }

    #[test]
    fn an_invalid_value_error_lists_the_valid_values() {
        let error = parse("service --bus systme").unwrap_err();
        assert!(
            error.contains("\"systme\" is not a bus address; write system, session, or an address"),
            "{error}"
        );
        let error = parse("service --log-to file").unwrap_err();
        assert!(error.contains("auto, journal, syslog, stderr"), "{error}");
        let error = parse("service --quiet").unwrap_err();
        assert!(error.contains("--check"), "{error}");
    }
}
