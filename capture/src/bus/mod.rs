//! The announcer on the bus: the `org.wakevirt.Capture1` interface, on a connection that is re-established when it is
//! lost. This module translates between D-Bus and [`crate::packets::ledger`], which makes the decisions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio_stream::StreamExt as _;
use wakevirt_protocol::bus::{CAPTURE_NAME, CAPTURE_PATH, Error as CallError, REPLAY_PAGE, dict};
use wakevirt_protocol::details::Detail;
use wakevirt_protocol::sniffer::Mode;
use wakevirt_protocol::{MacAddr, Transport};
use wakevirt_service::bus::{self, Address, CallLimiter, CallLimits, request_name, trusted_uids};
use wakevirt_service::lifecycle;
use wakevirt_service::logs::kind;
use zbus::message::{Header, Type};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, MatchRule, MessageStream, Variant, interface};

use crate::error::Error;
use crate::network::links::Interface;
use crate::packets::ledger::TransportCounters;
use crate::packets::ring::{Announcement, StoredPacket};
use crate::shared::Shared;

/// A body of type `a{sv}`.
type Dict = HashMap<&'static str, Variant<'static>>;

/// The maximum length of a call, in bytes: enough for `SetInterest` with the maximum number of addresses.
const MAX_CALL: usize = 2 * 1024 * 1024;
/// A user that is trusted like root: its calls do not share limits with the calls of other users.
const ACTOR: &str = "wakevirt-actor";

/// Runs the service on the bus, and reconnects when the connection is lost.
///
/// # Errors
/// If the bus does not allow the service to own its name.
pub async fn run(address: &Address, shared: &Arc<Shared>) -> Result<(), Error> {
    let on_disconnect = || {
        shared.ledger().bus_lost(Instant::now());
        // The service is ready even without a bus: it captures and stores packets.
        lifecycle::ready("capturing; waiting for the bus");
    };
    let trusted_uids = trusted_uids(&[ACTOR]);
    // The replies to lookups of senders arrive on the same connection as the calls.
    let limits = CallLimits {
        max_bytes: MAX_CALL,
        slow: &[],
        large: &["Replay"],
        trusted_uids,
        pause_for_lookup: false,
    };
    let calls = CallLimiter::new(limits);
    let run = async |connection: &Connection| run_connection(connection, &calls, shared).await;
    bus::run_connected(address, Some(&calls), run, on_disconnect).await.map_err(Error::from)
}

/// Runs the service on one connection, until it is lost.
async fn run_connection(
    connection: &Connection,
    calls: &CallLimiter,
    shared: &Arc<Shared>,
) -> Result<(), bus::BusError> {
    let service = Capture1 { shared: Arc::clone(shared) };
    connection.object_server().at(CAPTURE_PATH, service).await?;
    let emitter = SignalEmitter::new(connection, CAPTURE_PATH)?;
    let disconnects = subscribe_disconnects(connection).await?;
    // No signals are emitted for earlier packets, because no subscriber knows this owner yet: clients request them with
    // Replay.
    let announced = shared.ledger().sequence();
    shared.ledger().published(announced, Instant::now());
    // Always polled: a stream with a full queue blocks the connection, including the reply to `request_name`.
    let mut disconnects = core::pin::pin!(handle_disconnects(disconnects, shared));
    tokio::select! {
        owned = request_name(connection, CAPTURE_NAME) => owned?,
        () = &mut disconnects => return Err(bus::BusError::Closed),
    }
    tracing::info!(MESSAGE_ID = kind::NAME_ACQUIRED, "connected to the bus as {CAPTURE_NAME}");
    lifecycle::ready("capturing");
    tokio::select! {
        () = connection.closed() => {}
        () = calls.look_up_senders(connection) => {}
        Err(_) = publish(&emitter, shared, announced) => {}
        Err(_) = publish_interfaces(&emitter, shared) => {}
        () = disconnects => {}
    }
    Err(bus::BusError::Closed)
}

/// Emits a signal for each announced packet. If the bus is slow, packets remain in the ledger's queue, where later
/// packets do not displace them.
async fn publish(emitter: &SignalEmitter<'_>, shared: &Shared, mut last: u64) -> zbus::Result<()> {
    let mut announced = shared.announced.subscribe();
    loop {
        let (epoch, packets) = {
            let ledger = shared.ledger();
            let (_, packets) = ledger.replay(ledger.epoch(), last, REPLAY_PAGE);
            (ledger.epoch().to_owned(), packets)
        };
        if packets.is_empty() {
            // `shared` owns the sender.
            let _ = announced.changed().await;
        }
        for StoredPacket { announcement, .. } in packets {
            let mac = announcement.packet.magic.target().to_string();
            let details = details(&announcement, &epoch);
            Capture1::magic_packet(emitter, announcement.sequence, &mac, details).await?;
            last = announcement.sequence;
            shared.ledger().published(last, Instant::now());
        }
    }
}

async fn publish_interfaces(emitter: &SignalEmitter<'_>, shared: &Arc<Shared>) -> zbus::Result<()> {
    let mut interfaces = shared.interfaces.subscribe();
    loop {
        let _ = interfaces.changed().await;
        let capture = Capture1 { shared: Arc::clone(shared) };
        // In this order: a client that reads a new name in `Interfaces` already finds its alternatives.
        capture.alternative_names_changed(emitter).await?;
        capture.interfaces_changed(emitter).await?;
    }
}

/// Subscribes to disconnections: the unique name of a closed connection loses its owner.
async fn subscribe_disconnects(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(2, "")
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

/// Starts the retention period for the interests of callers that disconnect.
async fn handle_disconnects(mut disconnects: MessageStream, shared: &Shared) {
    while let Some(Ok(message)) = disconnects.next().await {
        if let Ok((name, _, _)) = message.body().deserialize::<(&str, &str, &str)>() {
            shared.ledger().caller_disconnected(name, Instant::now());
        }
    }
}

/// Returns the details in the `MagicPacket` signal.
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

/// Returns the details of a packet in the reply to `Replay`.
#[must_use]
pub fn stored_details(StoredPacket { announcement, copies }: &StoredPacket, epoch: &str) -> Dict {
    let mut details = details(announcement, epoch);
    details.insert("copies", (*copies).into());
    details
}

/// The D-Bus object.
struct Capture1 {
    shared: Arc<Shared>,
}

#[interface(name = "org.wakevirt.Capture1")]
impl Capture1 {
    /// Returns a page of the stored packets with a sequence number above `after`, oldest first.
    #[zbus(out_args("epoch", "lost", "more", "packets"))]
    fn replay(&self, epoch: &str, after: u64) -> (String, bool, bool, Vec<(u64, String, Dict)>) {
        let ledger = self.shared.ledger();
        let (lost, mut packets) = ledger.replay(epoch, after, REPLAY_PAGE + 1);
        let more = packets.len() > REPLAY_PAGE;
        packets.truncate(REPLAY_PAGE);
        let current = ledger.epoch().to_owned();
        let packets = packets.into_iter().map(|packet| {
            let Announcement { sequence, packet: received, .. } = &*packet.announcement;
            (*sequence, received.magic.target().to_string(), stored_details(&packet, &current))
        });
        let packets = packets.collect();
        (current, lost, more, packets)
    }

    /// Returns the SecureOn password of a packet.
    #[zbus(out_args("password"))]
    fn get_secure_on(&self, epoch: &str, sequence: u64) -> Result<Vec<u8>, CallError> {
        match self.shared.ledger().password(epoch, sequence) {
            Some(Some(password)) => Ok(password.as_bytes().to_vec()),
            Some(None) => Err(CallError::NoSecureOn(format!(
                "packet {sequence} has no password; request one only if `secureon` is true"
            ))),
            None => Err(CallError::Forgotten(format!(
                "packet {sequence} of epoch {epoch:?} is not stored; request the password sooner, or increase `remember` in capture.toml"
            ))),
        }
    }

    /// Replaces the interest of the caller: the MAC addresses of its domains.
    fn set_interest(&self, macs: Vec<Vec<u8>>, #[zbus(header)] header: Header<'_>) -> Result<(), CallError> {
        let caller =
            header.sender().ok_or_else(|| CallError::InvalidArgument("the call has no sender".to_owned()))?;
        let macs: BTreeSet<MacAddr> = macs.iter().map(|mac| parse_mac(mac)).collect::<Result<_, _>>()?;
        let count = macs.len();
        self.shared
            .ledger()
            .set_interest(caller.as_str(), macs, Instant::now())
            .map_err(|error| CallError::LimitExceeded(error.to_string()))?;
        self.shared.interest.notify_one();
        tracing::debug!("{caller} registered MAC addresses: {count}");
        Ok(())
    }

    /// A magic packet was received.
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

    /// A random value that changes with each start of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn epoch(&self) -> String {
        self.shared.ledger().epoch().to_owned()
    }

    /// The capture mode: `raw` or `udp`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn mode(&self) -> &'static str {
        match self.shared.mode {
            Mode::Raw => "raw",
            Mode::Udp => "udp",
        }
    }

    /// The interfaces on which packets are captured, sorted by name.
    #[zbus(property)]
    fn interfaces(&self) -> Vec<String> {
        self.shared.interfaces.borrow().iter().map(|interface| interface.name.clone()).collect()
    }

    /// The alternative names of the interfaces on which packets are captured, by interface name.
    #[zbus(property)]
    fn alternative_names(&self) -> HashMap<String, Vec<String>> {
        let interfaces = self.shared.interfaces.borrow();
        let known = interfaces.iter().filter(|interface| !interface.alternatives.is_empty());
        known.map(|interface| (interface.name.clone(), interface.alternatives.clone())).collect()
    }

    /// The sequence number of the most recently announced packet, or 0.
    #[zbus(property(emits_changed_signal = "false"))]
    fn sequence(&self) -> u64 {
        self.shared.ledger().sequence()
    }

    /// Magic packets that were received on the interfaces on which packets are captured.
    #[zbus(property(emits_changed_signal = "false"))]
    fn received(&self) -> u64 {
        self.sum(|counters| counters.received)
    }

    /// Frames and datagrams that passed the kernel's filter but contained no magic packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn malformed(&self) -> u64 {
        self.shared.counters().malformed
    }

    /// Frames and datagrams that contained a magic packet and were too long to be searched completely.
    #[zbus(property(emits_changed_signal = "false"))]
    fn truncated(&self) -> u64 {
        self.shared.counters().truncated
    }

    /// Magic packets that were copies of an announced packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn duplicates(&self) -> u64 {
        self.sum(|counters| counters.duplicates)
    }

    /// Magic packets that were not announced because of a limit.
    #[zbus(property(emits_changed_signal = "false"))]
    fn limited(&self) -> u64 {
        self.sum(|counters| counters.limited)
    }

    /// Packets that the kernel dropped because a socket buffer was full.
    #[zbus(property(emits_changed_signal = "false"))]
    fn kernel_dropped(&self) -> u64 {
        self.shared.counters().dropped_by_kernel()
    }

    /// Magic packets that were lost between the sniffer and the announcer, because the announcer was too slow.
    #[zbus(property(emits_changed_signal = "false"))]
    fn channel_dropped(&self) -> u64 {
        self.shared.counters().dropped_channel
    }

    /// The counters of each transport, and the packets that the kernel dropped for each kind of socket.
    #[zbus(property(emits_changed_signal = "false"))]
    fn transports(&self) -> HashMap<&'static str, HashMap<&'static str, u64>> {
        let ledger = self.shared.ledger();
        let counters = *self.shared.counters();
        let counts = |transport| {
            let TransportCounters { received, duplicates, limited } =
                ledger.counters(transport).with(counters.suppressed(transport));
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
    fn sum(&self, count: impl Fn(TransportCounters) -> u64) -> u64 {
        let ledger = self.shared.ledger();
        let counters = *self.shared.counters();
        [Transport::Ethernet, Transport::Udp4, Transport::Udp6]
            .into_iter()
            .map(|transport| count(ledger.counters(transport).with(counters.suppressed(transport))))
            .fold(0, u64::saturating_add)
    }
}

fn parse_mac(bytes: &[u8]) -> Result<MacAddr, CallError> {
    let octets = bytes.try_into().map_err(|_| {
        CallError::InvalidArgument(format!(
            "a MAC address has 6 bytes, but one in the list has {}",
            bytes.len()
        ))
    })?;
    let mac = MacAddr::new(octets);
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(CallError::InvalidArgument(format!("{mac} is not the address of a single network card")))
    }
}
