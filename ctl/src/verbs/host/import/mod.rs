//! `wakevirtctl host import`: proposes a configuration for the hooks of other projects.

mod find;
mod proposal;
mod script;

use std::path::PathBuf;

use clap::ValueHint;
use serde::Serialize;

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

/// The proposal, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Imported {
    /// The projects that the hooks come from.
    projects: Vec<&'static str>,
    /// The proposed configuration.
    content: String,
    /// The hooks that have no equivalent: their paths below the directory.
    without_equivalent: Vec<String>,
}

/// Prints the proposed configuration.
///
/// # Errors
/// If the directory cannot be read, or does not contain known hooks.
pub fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let directory = &arguments.directory;
    let hooks = find::hooks(directory)?;
    if hooks.is_empty() {
        return Err(HostError::NoHooks(directory.clone()).into());
    }
    let imported = Imported {
        projects: find::projects(&hooks),
        content: proposal::content(directory, &hooks),
        without_equivalent: proposal::without_equivalent(&hooks),
    };
    if output.is_json() {
        output.json(&imported)?;
    } else {
        output.writer().write_all(imported.content.as_bytes())?;
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests;
