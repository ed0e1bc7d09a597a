//! `wakevirtctl status`: both services on one screen.

mod check;

use std::io;

use serde::Serialize;
use wakevirt_service::bus::Address;
use wakevirt_service::init::Init;

use crate::client::{
    self, ActorStatus, CaptureStatus, Client, Decision, Domain, HypervisorConnection, Managed, Service,
};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, Table, ago};
use check::Check;

/// The maximum number of decisions that are shown.
const DECISIONS: usize = 5;

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Only check that wakevirt works: print what fails on standard error, and nothing if nothing fails
    ///
    /// Without CHECK, everything is checked. The exit status is 0 if nothing fails, 3 if a service is not running or does
    /// not reply within three seconds, and 1 if something else fails.
    #[arg(long, value_enum, value_name = "CHECK", value_delimiter = ',', num_args = 0.., require_equals = true)]
    check: Option<Vec<Check>>,
}

/// The warnings that `--check` reports as well.
const NO_INTERFACE: &str = "wakevirt-capture does not receive on any interface; \
    bring an interface up, or correct \"interfaces\" in /etc/wakevirt/capture.toml";
const NOT_RELOADED: &str = "wakevirt-actor uses an earlier configuration, because it could not read the current one; \
    run \"wakevirt-actor --check\", as root";

fn not_connected(connection: &HypervisorConnection, address: &Address) -> String {
    let HypervisorConnection { uri, error, .. } = connection;
    let reason = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let fix = if uri.starts_with("kubevirt:") {
        "see the log of wakevirt-kubevirt".to_owned()
    } else {
        let init = Init::running();
        let log = Managed::new(&init, address, Service::Actor).log();
        let log = log.map_or_else(|| "the log of wakevirt-actor".to_owned(), |log| format!("its log: {log}"));
        format!("run \"virsh --connect {uri} list\", and see {log}")
    };
    format!("wakevirt-actor is not connected to {uri}{reason}; {fix}")
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Status {
    capture: Option<CaptureStatus>,
    actor: Option<ActorStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decisions: Option<Vec<Decision>>,
    warnings: Vec<String>,
}

/// Shows the status.
///
/// # Errors
/// If the bus is unavailable, or the output cannot be written.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    if let Some(checks) = &arguments.check {
        return Ok(check::run(checks, client).await);
    }
    client.connection().await?;
    let mut status =
        Status { capture: None, actor: None, allowed: None, decisions: None, warnings: Vec::new() };
    let mut exit = Exit::Success;
    match client.capture_status().await {
        Ok(capture) => status.capture = Some(capture),
        Err(error) => {
            status.warnings.push(error.to_string());
            exit = error.exit();
        }
    }
    match client.actor_status().await {
        Ok(actor) => {
            status.actor = Some(actor);
            status.add_restricted(client).await;
        }
        Err(error) => {
            status.warnings.push(error.to_string());
            exit = error.exit();
        }
    }
    status.add_warnings(client.address());
    if output.is_json() {
        output.json(&status)?;
    } else {
        status.print(output)?;
    }
    Ok(exit)
}

impl Status {
    /// Adds what only some users are allowed to see.
    async fn add_restricted(&mut self, client: &Client) {
        let denied = match client.domains().await {
            Ok(domains) => {
                self.allowed = Some(domains.iter().filter(|domain: &&Domain| domain.allowed).count());
                None
            }
            // A missing connection to a hypervisor has a warning of its own.
            Err(error) => Some(error).filter(|error| matches!(error, client::Error::Denied { .. })),
        };
        self.decisions = client.history(DECISIONS).await.ok();
        self.warnings.extend(denied.map(|error| error.to_string()));
    }

    /// Adds warnings about the services.
    fn add_warnings(&mut self, address: &Address) {
        let mut warnings = Vec::new();
        if let Some(capture) = &self.capture {
            if capture.interfaces.is_empty() {
                warnings.push(NO_INTERFACE.to_owned());
            }
            if capture.mode == "udp" {
                let fix = "if senders use etherwake, give the service CAP_NET_RAW, as the shipped unit does";
                warnings.push(format!(
                    "wakevirt-capture receives only UDP datagrams, not Ethernet frames; {fix}"
                ));
            }
        }
        if let Some(actor) = &self.actor {
            for missing in actor.connections.iter().filter(|connection| !connection.connected) {
                warnings.push(not_connected(missing, address));
            }
            if !actor.configuration_valid {
                warnings.push(NOT_RELOADED.to_owned());
            }
            if self.allowed == Some(0) && actor.domains > 0 {
                let fix = match address {
                    Address::Session => "add a rule: wakevirtctl --bus session allow DOMAIN",
                    Address::System | Address::At(_) => "add a rule, as root: wakevirtctl allow DOMAIN",
                };
                warnings.push(format!("no domain is allowed, so packets do not wake any domain; {fix}"));
            }
        }
        if let (Some(capture), Some(actor)) = (&self.capture, &self.actor)
            && capture.version != actor.version
        {
            let init = Init::running();
            let restart = |service| Managed::new(&init, address, service).restart();
            // The actor first: docs/ARCHITECTURE.md, "An upgrade restarts the actor first, then capture".
            let commands = restart(Service::Actor).zip(restart(Service::Capture));
            let fix = commands.map(|(actor, capture)| format!(": {actor} && {capture}")).unwrap_or_default();
            warnings.push(format!(
                "the services have different versions ({}, {}); restart both, as root{fix}",
                capture.version, actor.version
            ));
        }
        self.warnings.extend(warnings);
    }

    fn print(&self, output: &mut Output) -> io::Result<()> {
        let mut table = Table::default();
        self.capture_rows(&mut table);
        self.actor_rows(&mut table);
        output.table(&table)?;
        self.print_decisions(output)?;
        for warning in &self.warnings {
            output.line(&[])?;
            output.line(&[Cell::new("warning: ", Style::Warning), Cell::plain(warning)])?;
        }
        Ok(())
    }

    fn capture_rows(&self, table: &mut Table) {
        let Some(capture) = &self.capture else {
            return row(table, "capture", Cell::new("unavailable", Style::Bad));
        };
        row(
            table,
            "capture",
            Cell::new(format!("running, version {}, mode {}", capture.version, capture.mode), Style::Good),
        );
        let interfaces = capture.interfaces.join(" ");
        row(table, "interfaces", Cell::plain(if interfaces.is_empty() { "none" } else { &interfaces }));
        let counts = [
            ("received", capture.received),
            ("duplicates", capture.duplicates),
            ("malformed", capture.malformed),
            ("limited", capture.limited),
            ("dropped", capture.kernel_dropped + capture.channel_dropped),
        ];
        row(table, "packets", counters(counts.into_iter()));
    }

    fn actor_rows(&self, table: &mut Table) {
        let Some(actor) = &self.actor else {
            return row(table, "actor", Cell::new("unavailable", Style::Bad));
        };
        row(table, "actor", Cell::new(format!("running, version {}", actor.version), Style::Good));
        for connection in &actor.connections {
            let (state, style) = if connection.connected {
                ("connected", Style::Plain)
            } else {
                ("not connected", Style::Bad)
            };
            row(table, "hypervisor", Cell::new(format!("{} {state}", connection.uri), style));
        }
        let allowed = self.allowed.map(|allowed| format!(", {allowed} allowed")).unwrap_or_default();
        row(table, "domains", Cell::plain(format!("{}{allowed}", actor.domains)));
        let outcomes = actor.outcomes.iter().filter(|(_, count)| **count > 0);
        let outcomes = outcomes.map(|(outcome, count)| (outcome.as_str(), *count));
        let outcomes: Vec<_> = outcomes.collect();
        let decisions =
            if outcomes.is_empty() { Cell::plain("none") } else { counters(outcomes.into_iter()) };
        row(table, "decisions", decisions);
        // The actor does not decide on these packets.
        let others = [("for unknown addresses", actor.unknown_packets), ("lost", actor.lost_packets)];
        let others: Vec<_> = others.into_iter().filter(|(_, count)| *count > 0).collect();
        if !others.is_empty() {
            row(table, "other packets", counters(others.into_iter()));
        }
    }

    fn print_decisions(&self, output: &mut Output) -> io::Result<()> {
        let Some(decisions) = self.decisions.as_ref().filter(|decisions| !decisions.is_empty()) else {
            return Ok(());
        };
        output.line(&[])?;
        let mut table = Table::new(&["TIME", "OUTCOME", "DOMAIN", "REASON"]);
        for decision in decisions {
            table.push(vec![
                Cell::plain(decision.time.map(ago).unwrap_or_default()),
                Cell::new(&decision.outcome, super::style_of(&decision.outcome)),
                Cell::plain(decision.domain.as_deref().unwrap_or_default()),
                Cell::plain(decision.details.reason.as_deref().unwrap_or_default()),
            ]);
        }
        output.table(&table)
    }
}

fn row(table: &mut Table, name: &str, value: Cell) {
    table.push(vec![Cell::new(name, Style::Bold), value]);
}

/// The first counter, and the others that are not 0.
fn counters<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Cell {
    let shown = counts.enumerate().filter(|(index, (_, count))| *index == 0 || *count > 0);
    Cell::plain(shown.map(|(_, (name, count))| format!("{count} {name}")).collect::<Vec<_>>().join(", "))
}
