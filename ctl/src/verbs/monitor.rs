//! `wakevirtctl monitor`: packets and decisions as they happen.

use serde::Serialize;
use wakevirt_service::clock::realtime;

use super::history;
use crate::client::{self, Client, Decision, Packet, Service};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, timestamp};

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Packet(Packet),
    Decision(Decision),
}

/// Prints packets and decisions until it is interrupted.
///
/// # Errors
/// If the bus is unavailable or closes the connection, or the output cannot be written.
pub async fn run(_: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let mut packets = client.packets().await?;
    let mut finished = client.finished().await?;
    for service in Service::BOTH {
        if let Err(error @ client::Error::NotRunning { .. }) = client.require(service).await {
            crate::report(&error);
        }
    }
    loop {
        let event = tokio::select! {
            packet = packets.next() => packet.map(Event::Packet),
            decision = finished.next() => decision.map(Event::Decision),
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Success),
        };
        let event = event.ok_or(client::Error::Closed)?;
        if output.is_json() {
            output.json(&event)?;
        } else {
            print(&event, output)?;
        }
        output.flush()?;
    }
}

fn print(event: &Event, output: &mut Output) -> std::io::Result<()> {
    let local = output.is_terminal();
    let columns = match event {
        Event::Packet(packet) => {
            let time = timestamp(packet.timestamp.unwrap_or_else(realtime), local);
            vec![
                Cell::plain(time),
                Cell::new("packet", Style::Dim),
                Cell::plain(&packet.mac),
                Cell::plain(origin(packet)),
                Cell::default(),
            ]
        }
        Event::Decision(decision) => history::row(decision, Some(timestamp(realtime(), local))),
    };
    // The usual widths of times, outcomes, names and senders.
    output.row(&columns, &[19, 15, 17, 24])
}

/// Describes where a packet came from, and how.
fn origin(packet: &Packet) -> String {
    let mut parts = vec![packet.transport.clone().unwrap_or_default()];
    parts.extend(packet.sender().map(|sender| format!("from {sender}")));
    parts.extend(packet.interface.as_ref().map(|interface| format!("on {interface}")));
    parts.extend(packet.vlan.filter(|vlan| *vlan > 0).map(|vlan| format!("VLAN {vlan}")));
    parts.extend(packet.secureon.filter(|it| *it).map(|_| "with a password".to_owned()));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}
