//! What the services tell on the bus while the demonstration goes on.

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

/// Something that a service told.
#[derive(Debug)]
pub(super) enum Event {
    /// `MagicPacket`, from capture.
    Packet {
        /// The MAC address in it.
        mac: String,
        /// Where it came in, and the like, in words.
        details: String,
        /// When the sniffer read it, in microseconds since boot.
        boottime: Option<u64>,
        /// When this was heard, likewise.
        now: u64,
    },
    /// `WakeFinished`, from the actor.
    Decision {
        /// The domain that it is about.
        domain: String,
        /// What came of it.
        outcome: String,
        /// Why.
        reason: String,
        /// When this was heard, in microseconds since boot.
        now: u64,
    },
}

/// What the services tell, in the order in which they do.
pub(super) struct Events(Receiver<Event>);

impl Events {
    /// Listens from now on.
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

    /// The next event, if one comes in this time.
    pub(super) fn next(&self, time: Duration) -> Option<Event> {
        self.0.recv_timeout(time).ok()
    }
}

/// Passes on what is heard, until the bus is gone or nobody wants to know.
async fn listen(address: &str, ready: &Sender<()>, events: &Sender<Event>) {
    let connection =
        zbus::connection::Builder::address(address).build().await.expect("a connection to the bus");
    let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace("/org/wakevirt");
    let rule = rule.build().expect("a rule");
    let mut stream = MessageStream::for_match_rule(rule, &connection, None).await.expect("a subscription");
    let _ = ready.send(());
    while let Some(Ok(message)) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        let heard = event(&message).is_none_or(|event| events.send(event).is_ok());
        if !heard {
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
            Some(Event::Packet { mac, details: in_words(&details), boottime, now })
        }
        "WakeFinished" => {
            let (_, domain, outcome, details) = body.deserialize::<(String, String, String, Dict)>().ok()?;
            let reason = text(&details, "reason").unwrap_or_default();
            Some(Event::Decision { domain, outcome, reason, now })
        }
        _ => None,
    }
}

/// Where a packet came in, who sent it and how.
fn in_words(details: &Dict) -> String {
    let known = PacketDetails::from(details);
    let number = |key| details.get(key).and_then(|value| u16::try_from(value).ok());
    let sender = text(details, "source").or_else(|| known.source_mac.map(|mac| mac.to_string()));
    let way = match (number("destination-port"), number("ethertype")) {
        (Some(port), _) => format!("UDP port {port}"),
        (None, Some(ethertype)) => format!("EtherType 0x{ethertype:04x}"),
        (None, None) => "a frame".to_owned(),
    };
    let parts = [
        known.interface.map(|interface| format!("on {interface}")),
        sender.map(|sender| format!("from {sender}")),
        Some(way),
        number("vlan").filter(|vlan| *vlan != 0).map(|vlan| format!("VLAN {vlan}")),
        known.secure_on.then(|| "with a password".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn text(details: &Dict, key: &str) -> Option<String> {
    details.get(key).and_then(|value| <&str>::try_from(value).ok()).map(str::to_owned)
}

/// CLOCK_BOOTTIME in microseconds, as capture stamps packets.
fn now() -> u64 {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock"));
    u64::try_from(time.as_micros()).expect("less than 500,000 years since boot")
}
