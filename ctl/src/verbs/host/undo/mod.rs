//! `wakevirtctl host undo`: restores the values that the host had before.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use nix::unistd::geteuid;
use serde::Serialize;
use wakevirt_host::desired::desired;
use wakevirt_host::model::{DROP_INS, Phase, Record};
use wakevirt_host::state;
use wakevirt_host::system::{Step, Sysfs, System, Systemd, plan};

use super::HostError;
use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style};
use crate::program;
use crate::verbs::units;

/// The units of the service, which would prepare the host again.
const SERVICE: [&str; 2] = ["wakevirt-host.socket", "wakevirt-host.service"];

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Also stop the units of running domains
    #[arg(long)]
    force: bool,
}

/// What was done, as JSON.
#[derive(Debug, Default, Serialize)]
struct Undone {
    /// The units of the service that were stopped.
    stopped: Vec<String>,
    /// Commands with the same effect as what was done.
    commands: Vec<String>,
    /// What running domains keep until they stop.
    kept: Vec<Kept>,
    failures: Vec<String>,
}

/// Something that a running domain keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Kept {
    domain: String,
    what: String,
}

/// Restores the host.
///
/// # Errors
/// If the caller is not root, or the state file or the host's values cannot be read. A step that fails does not prevent
/// the others.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    if !geteuid().is_root() {
        return Err(HostError::NeedsRoot { command: "sudo wakevirtctl host undo" }.into());
    }
    let undone = undo(arguments.force, client).await?;
    if output.is_json() {
        output.json(&undone)?;
    } else {
        undone.print(output)?;
    }
    Ok(if undone.failures.is_empty() { Exit::Success } else { Exit::Failure })
}

async fn undo(force: bool, client: &Client) -> Result<Undone, HostError> {
    let mut undone = Undone::default();
    undone.stop_service();
    let state = state::read(Path::new(state::FILE))?.unwrap_or_default();
    let system = System::new(Sysfs::default(), Systemd::new(client.address().clone()));
    let mut topology = match state.before {
        Some(before) => before,
        None => system.topology().await?,
    };
    system.update(&mut topology, false).await?;
    let current = system.current(&topology).await?;
    let mut wanted = desired(&[], &topology);
    let running: Vec<Record> =
        state.records.into_iter().filter(|record| record.phase == Phase::Started).collect();
    for record in &running {
        let units = desired(std::slice::from_ref(record), &topology).units;
        let units: BTreeSet<String> =
            units.intersection(&current.units).filter(|unit| !force && *unit != DROP_INS).cloned().collect();
        undone.kept.extend(kept(record, &units));
        wanted.units.extend(units);
    }
    for step in plan(&current, &wanted) {
        undone.commands.push(step.to_string());
        if step == (Step::Stop { unit: DROP_INS.to_owned() }) {
            // Waits until the drop-ins are removed.
            undone.systemctl(&["stop", DROP_INS]);
        } else if let Err(error) = system.apply(&step).await {
            undone.failures.push(error.to_string());
        }
    }
    Ok(undone)
}

/// What a running domain keeps: the kernel takes huge pages back when QEMU has ended.
fn kept(record: &Record, units: &BTreeSet<String>) -> Vec<Kept> {
    let pages = record.pages.iter().map(|pages| format!("{} huge pages of {}", pages.count, pages.size));
    let kept = pages.chain(units.iter().cloned());
    kept.map(|what| Kept { domain: record.name.clone(), what }).collect()
}

impl Undone {
    /// Stops the service and its socket, if they are running.
    fn stop_service(&mut self) {
        let Ok(units) = units::system() else { return };
        let active = |name: &&str| units.get(*name).is_some_and(units::Unit::is_active);
        let active: Vec<&str> = SERVICE.into_iter().filter(active).collect();
        if !active.is_empty() && self.systemctl(&[&["stop"], active.as_slice()].concat()) {
            self.stopped.extend(active.into_iter().map(str::to_owned));
        }
    }

    /// Runs systemctl(1). Returns whether it succeeded.
    fn systemctl(&mut self, arguments: &[&str]) -> bool {
        let result = program::run("systemctl", arguments);
        let failure = match result {
            Ok(output) if output.success => return true,
            Ok(output) => output.error(),
            Err(reason) => reason,
        };
        self.failures.push(format!("systemctl {}: {failure}", arguments.join(" ")));
        false
    }

    fn print(&self, output: &mut Output) -> io::Result<()> {
        for unit in &self.stopped {
            output.line(&[Cell::plain(format!("stopped {unit}"))])?;
        }
        for command in &self.commands {
            output.line(&[Cell::plain(command)])?;
        }
        for Kept { domain, what } in &self.kept {
            output.line(&[
                Cell::new("kept: ", Style::Warning),
                Cell::plain(format!("{domain} uses {what} until it stops")),
            ])?;
        }
        for failure in &self.failures {
            output.line(&[Cell::new("failed: ", Style::Bad), Cell::plain(failure)])?;
        }
        if self.commands.is_empty() && self.failures.is_empty() {
            output.line(&[Cell::plain("the host has the values that it had before")])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wakevirt_host::model::{PageSize, Pages};

    use super::*;

    #[test]
    fn names_what_a_running_domain_keeps() {
        let pages = vec![Pages { size: PageSize(2048), count: 4, node: None }];
        let record = Record { pages, ..Record::new("win11", Phase::Started, core::time::Duration::ZERO) };
        let kept = kept(&record, &["wakevirt-domain@win11.target".to_owned()].into());
        let kept: Vec<_> = kept.iter().map(|it| (it.domain.as_str(), it.what.as_str())).collect();
        assert_eq!(kept, [("win11", "4 huge pages of 2 MiB"), ("win11", "wakevirt-domain@win11.target")]);
    }
}
