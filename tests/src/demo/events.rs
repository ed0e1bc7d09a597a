//! Receives the signals of the services during the demonstration.

use core::future::poll_fn;
use core::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use futures_core::Stream as _;
use nix::time::{ClockId, clock_gettime};
use wakevirt_protocol::bus::{Dict, PacketDetails};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream};

use crate::bus;
use crate::host::Host;

/// A signal of a service.
#[derive(Debug)]
pub(super) enum Event {
    /// `MagicPacket`, from capture.
    Packet {
        /// The MAC address in it.
        mac: String,
        /// Interface, sender and other details, as text.
        details: String,
        /// The time at which the announcer received it, in microseconds since boot.
        boottime: Option<u64>,
        /// The time at which the signal was received, in microseconds since boot.
        now: u64,
    },
    /// `WakeFinished`, from the actor.
    Decision {
        domain: String,
        outcome: String,
        reason: String,
        /// The time at which the signal was received, in microseconds since boot.
        now: u64,
    },
}

/// The signals, in the order in which the bus delivers them.
pub(super) struct Events(Receiver<Event>);

impl Events {
    /// Subscribes to the signals of both services.
    pub(super) fn subscribe(host: &Host) -> Self {
        let address = bus::address(host);
        let (sender, events) = channel();
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(listen(&address, &ready, &sender));
        });
        is_ready.recv().expect("a subscription on the bus");
        Self(events)
    }

    /// Waits for the next event, for at most this time.
    pub(super) fn next(&self, time: Duration) -> Option<Event> {
        self.0.recv_timeout(time).ok()
    }
}

/// Forwards events, until the bus exits or the receiver is dropped.
async fn listen(address: &str, ready: &Sender<()>, events: &Sender<Event>) {
    let connection =
        zbus::connection::Builder::address(address).build().await.expect("a connection to the bus");
    let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace("/org/wakevirt");
    let rule = rule.build().expect("a match rule");
    let mut stream = MessageStream::for_match_rule(rule, &connection, None).await.expect("a subscription");
    let _ = ready.send(());
    while let Some(Ok(message)) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        let received = event(&message).is_none_or(|event| events.send(event).is_ok());
        if !received {
            return;
        }
    }
}

fn event(message: &Message) -> Option<Event> {
    let now = now();
    let (header, body) = (message.header(), message.body());
    match header.member()?.as_str() {
        "MagicPacket" => {
            let (_, mac, details) = body.deserialize::<(u64, String, Dict)>().ok()?;
            let boottime = PacketDetails::from(&details).boottime;
            Some(Event::Packet { mac, details: describe(&details), boottime, now })
        }
        "WakeFinished" => {
            let (_, domain, outcome, details) = body.deserialize::<(String, String, String, Dict)>().ok()?;
            let reason = text(&details, "reason").unwrap_or_default();
            Some(Event::Decision { domain, outcome, reason, now })
        }
        _ => None,
    }
}

/// Describes the interface, the sender and the protocol of a packet.
fn describe(details: &Dict) -> String {
    let known = PacketDetails::from(details);
    let number = |key| details.get(key).and_then(|value| u16::try_from(value).ok());
    let sender = text(details, "source").or_else(|| known.source_mac.map(|mac| mac.to_string()));
    let protocol = match (number("destination-port"), number("ethertype")) {
        (Some(port), _) => format!("UDP port {port}"),
        (None, Some(ethertype)) => format!("EtherType 0x{ethertype:04x}"),
        (None, None) => "a frame".to_owned(),
    };
    let parts = [
        known.interface.map(|interface| format!("on {interface}")),
        sender.map(|sender| format!("from {sender}")),
        Some(protocol),
        number("vlan").filter(|vlan| *vlan != 0).map(|vlan| format!("VLAN {vlan}")),
        known.secure_on.then(|| "with a password".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn text(details: &Dict, key: &str) -> Option<String> {
    details.get(key).and_then(|value| <&str>::try_from(value).ok()).map(str::to_owned)
}

/// CLOCK_BOOTTIME in microseconds, the clock of the announcer's timestamps.
fn now() -> u64 {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock"));
    u64::try_from(time.as_micros()).expect("less than 500,000 years since boot")
}
