//! `wakevirtctl history`: the latest decisions.

use super::style_of;
use crate::client::{Client, Decision};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Table, timestamp};

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Print at most this many decisions; the actor stores the latest 1000
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    lines: usize,
}

/// Prints the latest decisions, newest first.
///
/// # Errors
/// If the actor does not return them.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let decisions = client.history(arguments.lines).await?;
    if output.is_json() {
        decisions.iter().try_for_each(|decision| output.json(decision))?;
    } else {
        output.table(&decisions_table(decisions.iter(), output.is_terminal()))?;
    }
    Ok(Exit::Success)
}

/// A table of decisions.
pub(super) fn decisions_table<'a>(decisions: impl Iterator<Item = &'a Decision>, terminal: bool) -> Table {
    let mut table = Table::new(&["TIME", "OUTCOME", "DOMAIN", "FROM", "REASON"]);
    for decision in decisions {
        table.push(row(decision, decision.time.map(|time| timestamp(time, terminal))));
    }
    table
}

/// The columns of a decision.
pub(super) fn row(decision: &Decision, time: Option<String>) -> Vec<Cell> {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    vec![
        Cell::plain(time.unwrap_or_default()),
        Cell::new(&decision.outcome, style_of(&decision.outcome)),
        Cell::plain(text(if decision.domain.is_some() { &decision.domain } else { &decision.mac })),
        Cell::plain(requester(decision)),
        Cell::plain(text(&decision.details.reason)),
    ]
}

/// Who requested the wake: the sender of the packet and the ingress interface, or the caller.
fn requester(decision: &Decision) -> String {
    let details = &decision.details;
    if let Some(user) = details.caller {
        return format!("user {user}");
    }
    match (details.sender(), details.interface.as_deref()) {
        (Some(sender), Some(interface)) => format!("{sender} on {interface}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => details.trigger.clone().unwrap_or_default(),
    }
}
