//! `wakevirtctl host import`: proposes a configuration for the hooks of other projects.

use std::path::PathBuf;

use clap::ValueHint;

use super::HostError;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The directory of the hooks, usually /etc/libvirt/hooks
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

/// Prints the proposed configuration.
///
/// # Errors
/// If the directory cannot be read, or does not contain known hooks.
pub fn run(arguments: &Arguments, _output: &mut Output) -> Result<Exit, Error> {
    Err(HostError::NoHooks(arguments.directory.clone()).into())
}
