//! The announcer on the bus: the interface `org.wakevirt.Capture1`, and the connection that is
//! made again whenever it is lost. This file translates; the ledger decides.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio_stream::StreamExt as _;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{CAPTURE_NAME, CAPTURE_PATH, Error as Refusal, REPLAY_PAGE, dict};
use wakevirt_protocol::details::Detail;
use wakevirt_protocol::sniffer::Mode;
use wakevirt_service::bus::{self, Address, Calls, Limits, own, trusted};
use wakevirt_service::lifecycle;
use zbus::message::{Header, Type};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, MatchRule, MessageStream, Variant, interface};

use crate::error::Error;
use crate::network::links::Interface;
use crate::packets::ledger::{Fates, Transport};
use crate::packets::ring::{Announcement, Remembered};
use crate::shared::Shared;

/// A body of type `a{sv}`.
type Dict = HashMap<&'static str, Variant<'static>>;

/// The longest call, in bytes: `SetInterest` with the addresses of all domains that can be told.
const LONGEST_CALL: usize = 2 * 1024 * 1024;
/// Whose questions others' calls do not keep from an answer, besides root.
const ACTOR: &str = "wakevirt-actor";

/// Keeps the service on the bus.
///
/// # Errors
/// If the bus refuses the name for good.
pub async fn keep(address: &Address, shared: &Arc<Shared>) -> Result<(), Error> {
    let away = || {
        shared.ledger().bus_lost(Instant::now());
        // Ready all the same: it hears, and remembers.
        lifecycle::ready("hearing; waiting for the bus");
    };
    let trusted = trusted(&[ACTOR]);
    // The answers about senders come on the connection that is called.
    let limits = Limits { longest: LONGEST_CALL, slow: &[], large: &["Replay"], trusted, holds_back: false };
    let calls = Calls::new(limits);
    let job = async |connection: &Connection| serve(connection, &calls, shared).await;
    bus::keep(address, Some(&calls), job, away).await.map_err(Error::from)
}

/// Serves until the connection is lost.
async fn serve(connection: &Connection, calls: &Calls, shared: &Arc<Shared>) -> Result<(), bus::Error> {
    let service = Capture1 { shared: Arc::clone(shared) };
    connection.object_server().at(CAPTURE_PATH, service).await?;
    let emitter = SignalEmitter::new(connection, CAPTURE_PATH)?;
    let departures = departures(connection).await?;
    // What was announced until now is for Replay: nobody can have subscribed to this owner yet.
    let announced = shared.ledger().sequence();
    shared.ledger().published(announced, Instant::now());
    // Always polled: a stream whose queue is full holds up the whole connection, also what `own` waits for.
    let mut watching = core::pin::pin!(watch(departures, shared));
    tokio::select! {
        owned = own(connection, CAPTURE_NAME) => owned?,
        () = &mut watching => return Err(bus::Error::Closed),
    }
    tracing::info!("on the bus as {CAPTURE_NAME}");
    lifecycle::ready("hearing");
    tokio::select! {
        () = connection.closed() => {}
        () = calls.look_up_users(connection) => {}
        Err(_) = publish(&emitter, shared, announced) => {}
        Err(_) = tell_interfaces(&emitter, shared) => {}
        () = watching => {}
    }
    Err(bus::Error::Closed)
}

/// Signals what the ledger announces. A bus that is slow makes it wait, and the queue is the ledger's:
/// what was not published yet makes no room for what comes later.
async fn publish(emitter: &SignalEmitter<'_>, shared: &Shared, mut last: u64) -> zbus::Result<()> {
    let mut announced = shared.announced.subscribe();
    loop {
        let (epoch, packets) = {
            let ledger = shared.ledger();
            let (_, packets) = ledger.replay(ledger.epoch(), last, REPLAY_PAGE);
            (ledger.epoch().to_owned(), packets)
        };
        if packets.is_empty() {
            // The sender lives as long as `shared`.
            let _ = announced.changed().await;
        }
        for Remembered { announcement, .. } in packets {
            let mac = announcement.packet.magic.target().to_string();
            let details = details(&announcement, &epoch);
            Capture1::magic_packet(emitter, announcement.sequence, &mac, details).await?;
            last = announcement.sequence;
            shared.ledger().published(last, Instant::now());
        }
    }
}

async fn tell_interfaces(emitter: &SignalEmitter<'_>, shared: &Arc<Shared>) -> zbus::Result<()> {
    let mut interfaces = shared.interfaces.subscribe();
    loop {
        let _ = interfaces.changed().await;
        let capture = Capture1 { shared: Arc::clone(shared) };
        // The second first: whoever reads a name in the first one finds its alternatives.
        capture.alternative_names_changed(emitter).await?;
        capture.interfaces_changed(emitter).await?;
    }
}

/// The bus's news of connections that are closed: their names have no owner any more.
async fn departures(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(2, "")
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

/// Lets the interests of callers that leave fade.
async fn watch(mut departures: MessageStream, shared: &Shared) {
    while let Some(Ok(message)) = departures.next().await {
        if let Ok((name, _, _)) = message.body().deserialize::<(&str, &str, &str)>() {
            shared.ledger().caller_disconnected(name, Instant::now());
        }
    }
}

/// The details of `MagicPacket`.
#[must_use]
pub fn details(announcement: &Announcement, epoch: &str) -> Dict {
    let mut details = announcement.packet.details(announcement.stamp);
    details.push(("epoch", Detail::Text(epoch.to_owned())));
    if let Some(Interface { name, alternatives }) = announcement.interface.as_deref() {
        details.push(("interface", Detail::Text(name.clone())));
        if !alternatives.is_empty() {
            details.push(("interface-alternatives", Detail::Texts(alternatives.clone())));
        }
    }
    dict(details)
}

/// The details of a packet in the reply to `Replay`.
#[must_use]
pub fn remembered(Remembered { announcement, copies }: &Remembered, epoch: &str) -> Dict {
    let mut details = details(announcement, epoch);
    details.insert("copies", (*copies).into());
    details
}

/// The object.
struct Capture1 {
    shared: Arc<Shared>,
}

#[interface(name = "org.wakevirt.Capture1")]
impl Capture1 {
    /// The first of the remembered packets with a higher sequence, oldest first.
    #[zbus(out_args("epoch", "lost", "more", "packets"))]
    fn replay(&self, epoch: &str, after: u64) -> (String, bool, bool, Vec<(u64, String, Dict)>) {
        let ledger = self.shared.ledger();
        let (lost, mut packets) = ledger.replay(epoch, after, REPLAY_PAGE + 1);
        let more = packets.len() > REPLAY_PAGE;
        packets.truncate(REPLAY_PAGE);
        let now = ledger.epoch().to_owned();
        let packets = packets.into_iter().map(|packet| {
            let Announcement { sequence, packet: heard, .. } = &*packet.announcement;
            (*sequence, heard.magic.target().to_string(), remembered(&packet, &now))
        });
        let packets = packets.collect();
        (now, lost, more, packets)
    }

    /// The SecureOn password that came with a packet.
    #[zbus(out_args("password"))]
    fn get_secure_on(&self, epoch: &str, sequence: u64) -> Result<Vec<u8>, Refusal> {
        match self.shared.ledger().password(epoch, sequence) {
            Some(Some(password)) => Ok(password.as_bytes().to_vec()),
            Some(None) => Err(Refusal::NoSecureOn(format!(
                "packet {sequence} came without a password; ask only where `secureon` is true"
            ))),
            None => Err(Refusal::Forgotten(format!(
                "packet {sequence} of epoch {epoch:?} is not remembered; ask sooner, or raise `remember` in capture.toml"
            ))),
        }
    }

    /// Replaces the MAC addresses that the caller is interested in.
    fn set_interest(&self, macs: Vec<Vec<u8>>, #[zbus(header)] header: Header<'_>) -> Result<(), Refusal> {
        let caller =
            header.sender().ok_or_else(|| Refusal::InvalidArgument("the caller has no name".to_owned()))?;
        let macs: BTreeSet<MacAddr> = macs.iter().map(|mac| read_mac(mac)).collect::<Result<_, _>>()?;
        let count = macs.len();
        self.shared
            .ledger()
            .set_interest(caller.as_str(), macs, Instant::now())
            .map_err(|error| Refusal::LimitExceeded(error.to_string()))?;
        tracing::debug!("{caller} is interested in {count} MAC addresses");
        Ok(())
    }

    /// A magic packet was heard.
    #[zbus(signal)]
    async fn magic_packet(
        emitter: &SignalEmitter<'_>,
        sequence: u64,
        mac: &str,
        details: Dict,
    ) -> zbus::Result<()>;

    /// The version of wakevirt.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Random at each start of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn epoch(&self) -> String {
        self.shared.ledger().epoch().to_owned()
    }

    /// How it hears: `raw` or `udp`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn mode(&self) -> &'static str {
        match self.shared.mode {
            Mode::Raw => "raw",
            Mode::Udp => "udp",
        }
    }

    /// The interfaces that it hears on.
    #[zbus(property)]
    fn interfaces(&self) -> Vec<String> {
        self.shared.interfaces.borrow().iter().map(|interface| interface.name.clone()).collect()
    }

    /// The alternative names of these interfaces, by their names.
    #[zbus(property)]
    fn alternative_names(&self) -> HashMap<String, Vec<String>> {
        let interfaces = self.shared.interfaces.borrow();
        let known = interfaces.iter().filter(|interface| !interface.alternatives.is_empty());
        known.map(|interface| (interface.name.clone(), interface.alternatives.clone())).collect()
    }

    /// The sequence of the last packet that was announced.
    #[zbus(property(emits_changed_signal = "false"))]
    fn sequence(&self) -> u64 {
        self.shared.ledger().sequence()
    }

    /// Magic packets that were heard.
    #[zbus(property(emits_changed_signal = "false"))]
    fn received(&self) -> u64 {
        self.sum(|fates| fates.received)
    }

    /// Frames and datagrams that passed the kernel's filter and held no magic packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn malformed(&self) -> u64 {
        self.shared.counters().malformed
    }

    /// Frames and datagrams that held a magic packet and were too long to be searched to their end.
    #[zbus(property(emits_changed_signal = "false"))]
    fn truncated(&self) -> u64 {
        self.shared.counters().truncated
    }

    /// Magic packets that were copies of an announced one.
    #[zbus(property(emits_changed_signal = "false"))]
    fn duplicates(&self) -> u64 {
        self.sum(|fates| fates.duplicates)
    }

    /// Magic packets that were not announced because there were too many.
    #[zbus(property(emits_changed_signal = "false"))]
    fn limited(&self) -> u64 {
        self.sum(|fates| fates.limited)
    }

    /// What the kernel dropped because a socket's buffer was full.
    #[zbus(property(emits_changed_signal = "false"))]
    fn kernel_dropped(&self) -> u64 {
        self.shared.counters().dropped_by_kernel()
    }

    /// Magic packets that were lost behind the sniffer because the announcer was too slow.
    #[zbus(property(emits_changed_signal = "false"))]
    fn channel_dropped(&self) -> u64 {
        self.shared.counters().dropped_channel
    }

    /// The counters that are known for each transport, and what the kernel dropped for each kind of socket.
    #[zbus(property(emits_changed_signal = "false"))]
    fn transports(&self) -> HashMap<&'static str, HashMap<&'static str, u64>> {
        let ledger = self.shared.ledger();
        let counters = *self.shared.counters();
        let counts = |transport| {
            let Fates { received, duplicates, limited } = ledger.fates_of(transport);
            HashMap::from([("received", received), ("duplicates", duplicates), ("limited", limited)])
        };
        HashMap::from([
            ("ethernet", counts(Transport::Ethernet)),
            ("udp4", counts(Transport::Udp4)),
            ("udp6", counts(Transport::Udp6)),
            ("raw", HashMap::from([("dropped", counters.dropped_raw)])),
            ("udp", HashMap::from([("dropped", counters.dropped_udp)])),
        ])
    }
}

impl Capture1 {
    fn sum(&self, count: impl Fn(Fates) -> u64) -> u64 {
        let ledger = self.shared.ledger();
        [Transport::Ethernet, Transport::Udp4, Transport::Udp6]
            .into_iter()
            .map(|transport| count(ledger.fates_of(transport)))
            .sum()
    }
}

fn read_mac(bytes: &[u8]) -> Result<MacAddr, Refusal> {
    let octets = bytes.try_into().map_err(|_| {
        Refusal::InvalidArgument(format!("a MAC address has 6 bytes, one of these has {}", bytes.len()))
    })?;
    let mac = MacAddr::new(octets);
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(Refusal::InvalidArgument(format!("{mac} is no single network card's address")))
    }
}
