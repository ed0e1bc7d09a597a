//! `wakevirtctl host`: how the host is prepared for its domains.

mod error;
pub mod import;

use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

pub use error::HostError;

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
    /// Propose a configuration for the libvirt hooks of VFIO-Tools or of portellam's libvirt-hooks
    ///
    /// The verb reads the hooks in DIR, which is usually /etc/libvirt/hooks, and prints a host.toml for
    /// wakevirt-host.toml(5) that does the same as the hooks. Comments in it name the hooks that have no equivalent. The
    /// verb changes nothing and runs no hook.
    Import(import::Arguments),
}

/// Runs the verb.
///
/// # Errors
/// See the verbs.
pub async fn run(arguments: &Arguments, _client: &Client, output: &mut Output) -> Result<Exit, Error> {
    match &arguments.verb {
        HostVerb::Import(arguments) => import::run(arguments, output),
    }
}
