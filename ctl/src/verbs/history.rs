//! `wakevirtctl history`: the latest decisions or packets.

use super::style_of;
use crate::client::{Client, Decision, Packet};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Table, timestamp};

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Print at most this many decisions or packets
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    lines: usize,

    /// Print the magic packets that capture has received, instead of decisions
    #[arg(long)]
    packets: bool,
}

/// Prints the latest decisions or packets, newest first.
///
/// # Errors
/// If the service does not return them.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    if arguments.packets {
        let packets = client.remembered().await?;
        print_packets(packets.iter().rev().take(arguments.lines), output)?;
        return Ok(Exit::Success);
    }
    let decisions = client.history(arguments.lines).await?;
    if output.is_json() {
        decisions.iter().try_for_each(|decision| output.json(decision))?;
    } else {
        output.table(&decisions_table(decisions.iter(), output.is_terminal()))?;
    }
    Ok(Exit::Success)
}

fn print_packets<'a>(
    mut packets: impl Iterator<Item = &'a Packet>,
    output: &mut Output,
) -> std::io::Result<()> {
    if output.is_json() {
        return packets.try_for_each(|packet| output.json(packet));
    }
    let mut table = Table::new(&["TIME", "MAC", "INTERFACE", "VLAN", "TRANSPORT", "FROM"]);
    for packet in packets {
        let time = packet.timestamp.map(|time| timestamp(time, output.is_terminal()));
        let vlan = packet.vlan.filter(|vlan| *vlan > 0).map(|vlan| vlan.to_string());
        table.push(vec![
            Cell::plain(time.unwrap_or_default()),
            Cell::plain(&packet.mac),
            Cell::plain(packet.interface.as_deref().unwrap_or_default()),
            Cell::plain(vlan.unwrap_or_default()),
            Cell::plain(packet.transport.as_deref().unwrap_or_default()),
            Cell::plain(packet.sender().unwrap_or_default()),
        ]);
    }
    output.table(&table)
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
