//! `wakevirtctl host plan`: what would be done for a domain, as commands and values.

mod xml;

use std::io;

use serde::Serialize;
use wakevirt_host::config::{Inhibit, Settings};
use wakevirt_host::definition::Definition;
use wakevirt_host::sleep::SleepMode;
use wakevirt_host::system::Step;

use super::HostError;
use super::guests::{self, Guest, URI};
use super::preview::{Preview, config};
use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style};
use crate::virsh;
use xml::{Proposal, proposals};

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The name or UUID of the domain
    #[arg(value_name = "DOMAIN")]
    domain: String,
}

/// The plan, as JSON.
#[derive(Debug, Default, Serialize)]
struct Plan {
    domain: String,
    /// Commands for each time, in the order of a domain's life.
    prepare: Vec<String>,
    run: Vec<String>,
    stop: Vec<String>,
    sleep: Vec<String>,
    wake: Vec<String>,
    shutdown: Vec<String>,
    proposals: Vec<Proposal>,
    failures: Vec<String>,
}

/// Prints the plan.
///
/// # Errors
/// If the configuration is invalid or does not contain the domain, or the domain or the host cannot be read.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let plan = read(&arguments.domain, client).await?;
    if output.is_json() {
        output.json(&plan)?;
    } else {
        plan.print(output)?;
    }
    Ok(if plan.failures.is_empty() { Exit::Success } else { Exit::Failure })
}

async fn read(domain: &str, client: &Client) -> Result<Plan, HostError> {
    let config = config()?;
    let guest = guests::find(domain)?;
    let xml = guest.definition()?;
    let preview = Preview::read(client).await?;
    let (Some(settings), Some(needs)) =
        (config.settings_for(&guest.name, guest.uuid), preview.needs(&config, &guest, &xml))
    else {
        return Err(HostError::NotConfigured(guest.name));
    };
    let steps = preview.steps(&guest, &needs);
    let commands = |steps: &[Step]| steps.iter().map(Step::to_string).collect();
    let mut plan = Plan {
        domain: guest.name.clone(),
        prepare: commands(&steps.prepare),
        run: commands(&steps.run),
        stop: commands(&steps.stop),
        failures: steps.failures,
        ..Plan::default()
    };
    if let Ok(definition) = Definition::read(&xml) {
        plan.proposals = proposals(&definition, &settings, &needs.isolated, &preview.topology.possible);
    }
    plan.add_sleep(&guest, &settings);
    Ok(plan)
}

impl Plan {
    /// Adds what happens when the host sleeps or shuts down.
    fn add_sleep(&mut self, guest: &Guest, settings: &Settings) {
        let command = |words: &[&str]| {
            let [verb, options @ ..] = words else { return String::new() };
            virsh::command(URI, &[&[*verb, guest.name.as_str()], options].concat())
        };
        if let Some(inhibit) = settings.nosleep {
            let mode = match inhibit {
                Inhibit::Weak => "block-weak",
                Inhibit::Block => "block",
            };
            let lid = if settings.lid { ":handle-lid-switch" } else { "" };
            self.run.push(format!("systemd-inhibit --what=sleep:idle{lid} --mode={mode} sleep infinity"));
        }
        if let Some(mode) = settings.sleep {
            let (sleep, wake): (&[&str], &[&str]) = match mode {
                SleepMode::Suspend => (&["dompmsuspend", "mem"], &["dompmwakeup"]),
                SleepMode::Hibernate => (&["dompmsuspend", "disk"], &["start"]),
                SleepMode::Pause => (&["suspend"], &["resume"]),
                SleepMode::Save => (&["managedsave"], &["start"]),
                SleepMode::Shutdown => (&["shutdown"], &["start"]),
            };
            self.sleep.push(command(sleep));
            self.wake.push(command(wake));
        }
        self.shutdown.extend(settings.shutdown.map(|mode| match SleepMode::from(mode) {
            SleepMode::Save => command(&["managedsave"]),
            SleepMode::Hibernate => command(&["dompmsuspend", "disk"]),
            _ => command(&["shutdown"]),
        }));
    }

    fn print(&self, output: &mut Output) -> io::Result<()> {
        let name = &self.domain;
        for failure in &self.failures {
            output.line(&[Cell::new("fails: ", Style::Bad), Cell::plain(failure)])?;
        }
        for (title, commands) in [
            (format!("before {name} starts:"), &self.prepare),
            (format!("while {name} runs:"), &self.run),
            (format!("after {name} has stopped:"), &self.stop),
            ("before the host sleeps:".to_owned(), &self.sleep),
            ("after the host has woken up:".to_owned(), &self.wake),
            ("before the host shuts down:".to_owned(), &self.shutdown),
        ] {
            if commands.is_empty() {
                continue;
            }
            output.line(&[Cell::new(title, Style::Bold)])?;
            for command in commands {
                output.line(&[Cell::plain(format!("  {command}"))])?;
            }
        }
        if self.proposals.is_empty() {
            return Ok(());
        }
        let edit = virsh::command(URI, &["edit", name]);
        let title = format!("elements that you can add to <cputune> in the definition of {name}:");
        output.line(&[Cell::new(title, Style::Bold), Cell::plain(format!(" {edit}"))])?;
        for proposal in &self.proposals {
            output.line(&[
                Cell::plain(format!("  {}", proposal.element)),
                Cell::new(format!("  {}", proposal.purpose), Style::Dim),
            ])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
