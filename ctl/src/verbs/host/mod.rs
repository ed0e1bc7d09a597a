//! `wakevirtctl host`: how the host is prepared for its domains.

pub mod check;
mod error;
mod guests;
pub mod import;
pub mod nas;
pub mod new;
pub mod plan;
mod preview;
pub mod status;
pub mod undo;

use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

pub use error::HostError;
pub use new::NewError;

/// The options.
#[derive(Debug, Clone, clap::Args)]
#[command(disable_help_subcommand = true, subcommand_value_name = "VERB")]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    verb: HostVerb,
}

/// What to do with the preparation of the host.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum HostVerb {
    /// Find out what prevents the preparation of the host
    ///
    /// The verb checks host.toml, the installation, and the definition of each domain that host.toml contains. For each
    /// finding, it prints what it has seen and, if there is one, the command that fixes the problem. The exit status is 1
    /// if there are errors or warnings. The verb changes nothing.
    Check(check::Arguments),
    /// Propose a configuration for the libvirt hooks of VFIO-Tools or of portellam's libvirt-hooks
    ///
    /// The verb reads the hooks in DIR, which is usually /etc/libvirt/hooks, and prints a host.toml for
    /// wakevirt-host.toml(5) that does the same as the hooks. Comments in it name the hooks that have no equivalent. The
    /// verb changes nothing and runs no hook.
    Import(import::Arguments),
    /// Write a unit of your own, which runs before a domain starts and after it has stopped
    ///
    /// The verb writes the unit NAME@.service, with two commands to replace, in a sandbox, and a table in
    /// /etc/wakevirt/host.d that makes wakevirt-host start the unit. It changes nothing else, and prints the commands that
    /// put the unit to use. It never replaces a file. On a host without systemd, it writes the executable
    /// /etc/wakevirt/host.d/NAME instead. /usr/share/doc/wakevirt/HOOKS.md has examples.
    New(new::Arguments),
    /// Share a folder with domains
    ///
    /// wakevirt-nas@NAME.service runs Samba's server for one folder and one isolated network of libvirt. See
    /// /usr/share/doc/wakevirt/NAS.md.
    Nas(nas::Arguments),
    /// Show what would be done for a domain, as commands
    ///
    /// The plan is computed with the functions of the service, from host.toml, the domain's definition for its next start,
    /// and the domains that are active now. The verb changes nothing. It also proposes elements for the definition that
    /// wakevirt does not set itself, such as priorities among domains. The exit status is 1 if the domain would not get
    /// everything that host.toml names.
    Plan(plan::Arguments),
    /// Show for which domains the host is prepared, its values, and what failed
    ///
    /// For each value, the verb shows what it was before the first domain, what the active domains need, and what it is
    /// now. It also lists the kernel threads and the interrupts that can use isolated CPUs: they remain there, because
    /// systemd does not manage them. The exit status is 1 if a domain did not get what it needs, or if a value
    /// differs and the service is not changing it at this moment.
    Status(status::Arguments),
    /// Restore the values that the host had before the first domain
    ///
    /// The verb stops wakevirt-host.service and its socket, which would prepare the host again, and restores the values and
    /// systemd's drop-ins. Running domains are not stopped: they keep their huge pages and
    /// the units that are active for them until they stop, and the verb names both. With --force, these units are stopped
    /// as well. A step that fails does not prevent the others. The verb requires root.
    Undo(undo::Arguments),
}

/// Runs the verb.
///
/// # Errors
/// See the verbs.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    match &arguments.verb {
        HostVerb::Check(arguments) => check::run(arguments, client, output).await,
        HostVerb::Import(arguments) => import::run(arguments, output),
        HostVerb::New(arguments) => new::run(arguments, output),
        HostVerb::Nas(arguments) => nas::run(arguments, output),
        HostVerb::Plan(arguments) => plan::run(arguments, client, output).await,
        HostVerb::Status(arguments) => status::run(arguments, client, output).await,
        HostVerb::Undo(arguments) => undo::run(arguments, client, output).await,
    }
}
