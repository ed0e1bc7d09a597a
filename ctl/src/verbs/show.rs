//! `wakevirtctl show`: one domain, and the latest decisions about it.

use clap_complete::ArgValueCandidates;
use serde::Serialize;

use super::domain;
use super::history::decisions_table;
use crate::client::{Client, Decision, Domain};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, Table, timestamp};

/// The maximum number of decisions that are shown.
const DECISIONS: usize = 5;
/// The maximum number of decisions that the actor stores.
const STORED: usize = 1000;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The name, UUID or MAC address of the domain
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: String,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    domain: &'a Domain,
    decisions: Vec<&'a Decision>,
}

/// Shows the domain, or each domain with this name.
///
/// # Errors
/// If there is none, or the actor does not return it.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let domains = client.domains().await?;
    let found = domain::find(&domains, &arguments.domain)?;
    let history = client.history(STORED).await?;
    for (index, domain) in found.into_iter().enumerate() {
        let is_about_domain = |decision: &&Decision| {
            let details = &decision.details;
            (details.connection.as_ref(), details.uuid.as_ref())
                == (Some(&domain.connection), Some(&domain.uuid))
        };
        let decisions: Vec<&Decision> = history.iter().filter(is_about_domain).take(DECISIONS).collect();
        if output.is_json() {
            output.json(&Shown { domain, decisions })?;
            continue;
        }
        if index > 0 {
            output.line(&[])?;
        }
        print(domain, &decisions, output)?;
    }
    Ok(Exit::Success)
}

fn print(domain: &Domain, decisions: &[&Decision], output: &mut Output) -> Result<(), Error> {
    let mut table = Table::default();
    let allowed = match (&domain.rule, domain.allowed) {
        (Some(rule), true) => format!("yes, {rule}"),
        (None, true) => "yes".to_owned(),
        (_, false) if domain.macs.is_empty() => "no: it has no MAC address".to_owned(),
        (_, false) => "no: neither a rule nor the metadata of the domain allows it".to_owned(),
    };
    let last = domain.last_wake.map(|time| timestamp(time, output.is_terminal()));
    for (name, value) in [
        ("domain", domain.name.as_str()),
        ("state", &domain.state),
        ("hypervisor", &domain.connection),
        ("uuid", &domain.uuid),
        ("macs", &domain.macs.join(" ")),
        ("allowed", &allowed),
        ("last wake", last.as_deref().unwrap_or("none since the start of wakevirt-actor")),
    ] {
        table.push(vec![Cell::new(name, Style::Bold), Cell::plain(value)]);
    }
    output.table(&table)?;
    if !decisions.is_empty() {
        output.line(&[])?;
        output.table(&decisions_table(decisions.iter().copied(), output.is_terminal()))?;
    }
    Ok(())
}
