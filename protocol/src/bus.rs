//! The names, bodies and errors of both D-Bus interfaces.
//!
//! The XML in `dbus/` is the reference. A test compares it with the introspection data of the running services.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use zbus::OwnedVariant;

use crate::MacAddr;
use crate::details::{Detail, Details, MAX_ALTERNATIVES, MAX_INTERFACE_NAME, Transport};

/// The bus name of the announcer.
pub const CAPTURE_NAME: &str = "org.wakevirt.Capture1";
/// The announcer's object.
pub const CAPTURE_PATH: &str = "/org/wakevirt/Capture1";
/// The announcer's interface.
pub const CAPTURE_INTERFACE: &str = "org.wakevirt.Capture1";
/// The signal that announces a magic packet.
pub const MAGIC_PACKET: &str = "MagicPacket";

/// The maximum number of packets in one reply to `Replay`. Such a reply is about 40 KiB long, and a signal waits behind
/// at most one of them.
pub const REPLAY_PAGE: usize = 128;
/// The maximum length of an epoch, in bytes.
const MAX_EPOCH: usize = 64;

/// The bus name of the actor.
pub const ACTOR_NAME: &str = "org.wakevirt.Actor1";
/// The actor's object.
pub const ACTOR_PATH: &str = "/org/wakevirt/Actor1";
/// The actor's interface.
pub const ACTOR_INTERFACE: &str = "org.wakevirt.Actor1";

/// A received body of type `a{sv}`.
pub type Dict = HashMap<String, OwnedVariant>;

/// The errors that both services return, `org.wakevirt.Error.*`. The message says what to do.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.wakevirt.Error")]
pub enum Error {
    /// An error of the bus itself.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// An invalid argument.
    InvalidArgument(String),
    /// The caller is not authorised.
    NotAuthorized(String),
    /// A limit of the service has been reached.
    LimitExceeded(String),
    /// The packet was never stored, or is no longer stored.
    Forgotten(String),
    /// The packet had no SecureOn password.
    NoSecureOn(String),
    /// No domain has this MAC address, name or UUID.
    NoSuchDomain(String),
    /// More than one domain has this MAC address.
    Ambiguous(String),
    /// The hypervisor is unavailable.
    HypervisorUnavailable(String),
    /// The hypervisor returned an error, or the domain is in a state that a wake cannot change.
    Failed(String),
}

/// The announcer's interface, for its callers.
#[zbus::proxy(
    interface = "org.wakevirt.Capture1",
    default_service = "org.wakevirt.Capture1",
    default_path = "/org/wakevirt/Capture1"
)]
pub trait Capture1 {
    /// Returns the first page of the stored packets with a sequence number above `after`, oldest first:
    /// `(epoch, lost, more, packets)`.
    fn replay(
        &self,
        epoch: &str,
        after: u64,
    ) -> Result<(String, bool, bool, Vec<(u64, String, Dict)>), Error>;
    /// The password of a packet.
    fn get_secure_on(&self, epoch: &str, sequence: u64) -> Result<Vec<u8>, Error>;
    /// Sets the MAC addresses of the caller's domains.
    fn set_interest(&self, macs: &[&[u8]]) -> Result<(), Error>;
    /// A magic packet was captured.
    #[zbus(signal)]
    fn magic_packet(&self, sequence: u64, mac: &str, details: Dict) -> zbus::Result<()>;
    /// The version of wakevirt.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
    /// A random value that changes with each start of the service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn epoch(&self) -> zbus::Result<String>;
    /// The capture mode: `raw` or `udp`.
    #[zbus(property)]
    fn mode(&self) -> zbus::Result<String>;
    /// The interfaces on which wakevirt captures packets.
    #[zbus(property)]
    fn interfaces(&self) -> zbus::Result<Vec<String>>;
    /// The alternative names of the interfaces in `interfaces`, by interface name.
    #[zbus(property)]
    fn alternative_names(&self) -> zbus::Result<HashMap<String, Vec<String>>>;
    /// The sequence number of the most recently announced packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn sequence(&self) -> zbus::Result<u64>;
    /// The number of captured magic packets.
    #[zbus(property(emits_changed_signal = "false"))]
    fn received(&self) -> zbus::Result<u64>;
    /// The number of frames that passed the kernel's filter and contained no magic packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn malformed(&self) -> zbus::Result<u64>;
    /// The number of magic packets that were copies of an announced packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn duplicates(&self) -> zbus::Result<u64>;
    /// The number of magic packets that were not announced because there were too many.
    #[zbus(property(emits_changed_signal = "false"))]
    fn limited(&self) -> zbus::Result<u64>;
    /// The number of frames and datagrams that the kernel dropped because a buffer was full.
    #[zbus(property(emits_changed_signal = "false"))]
    fn kernel_dropped(&self) -> zbus::Result<u64>;
    /// The number of magic packets that the sniffer dropped because the announcer was too slow.
    #[zbus(property(emits_changed_signal = "false"))]
    fn channel_dropped(&self) -> zbus::Result<u64>;
    /// The counters for each transport (received, duplicates, limited), and for each kind of socket (dropped).
    #[zbus(property(emits_changed_signal = "false"))]
    fn transports(&self) -> zbus::Result<HashMap<String, HashMap<String, u64>>>;
}

/// The actor's interface, for its callers.
#[zbus::proxy(
    interface = "org.wakevirt.Actor1",
    default_service = "org.wakevirt.Actor1",
    default_path = "/org/wakevirt/Actor1"
)]
pub trait Actor1 {
    /// Wakes the domain with this MAC address, and returns the outcome.
    fn wake(&self, mac: &str) -> Result<String, Error>;
    /// Wakes the domain with this name or UUID, and returns the outcome.
    fn wake_domain(&self, name_or_uuid: &str) -> Result<String, Error>;
    /// Returns whether a packet for this MAC address, with these details, would wake a domain, and the reason. Does not wake a domain.
    fn explain(&self, mac: &str, details: HashMap<&str, zbus::Variant<'_>>) -> Result<(bool, String), Error>;
    /// Explains how the actor would decide on a packet for this MAC address, with these details: see [`crate::explain::Explanation`]. Does not wake a domain.
    fn explain_rules(&self, mac: &str, details: HashMap<&str, zbus::Variant<'_>>) -> Result<Dict, Error>;
    /// The latest decisions, newest first.
    fn history(&self, limit: u32) -> Result<Vec<Dict>, Error>;
    /// The latest decisions with a number lower than `number`, newest first.
    fn history_before(&self, number: u64, limit: u32) -> Result<Vec<Dict>, Error>;
    /// Reloads the configuration.
    fn reload(&self) -> Result<(), Error>;
    /// All known domains.
    fn list_domains(&self) -> Result<Vec<Dict>, Error>;
    /// The page of known domains after this domain; empty after the last one. Two empty strings request the first page.
    fn list_domains_after(&self, connection: &str, uuid: &str) -> Result<Vec<Dict>, Error>;
    /// A decision about a domain was made.
    #[zbus(signal)]
    fn wake_finished(&self, mac: &str, domain: &str, outcome: &str, details: Dict) -> zbus::Result<()>;
    /// The version of wakevirt.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
    /// The hypervisor connections: the URI of each, and whether it is connected.
    #[zbus(property)]
    fn connections(&self) -> zbus::Result<Vec<(String, bool)>>;
    /// The number of known domains.
    #[zbus(property)]
    fn domains(&self) -> zbus::Result<u32>;
    /// The number of decisions for each outcome.
    #[zbus(property(emits_changed_signal = "false"))]
    fn outcomes(&self) -> zbus::Result<HashMap<String, u64>>;
    /// The number of packets for MAC addresses that no domain has.
    #[zbus(property(emits_changed_signal = "false"))]
    fn unknown_packets(&self) -> zbus::Result<u64>;
    /// The most recent MAC addresses that no domain has, newest first: the address, its number of packets, and the time and the
    /// interface of its latest packet.
    #[zbus(property(emits_changed_signal = "false"))]
    fn unknown_addresses(&self) -> zbus::Result<Vec<(String, u64, u64, String)>>;
    /// How long successful wakes by packets took: cumulative buckets, sum and count.
    #[zbus(property(emits_changed_signal = "false"))]
    fn wake_latency(&self) -> zbus::Result<(Vec<(u64, u64)>, u64, u64)>;
    /// The number of announced packets that were lost before a decision.
    #[zbus(property(emits_changed_signal = "false"))]
    fn lost_packets(&self) -> zbus::Result<u64>;
}

/// The details of a magic packet, as a subscriber to the signal parses them.
///
/// A detail that is absent or has an unexpected type is `None`, so that no packet is lost if a later version changes
/// the details.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketDetails {
    /// The epoch of the announcer that numbered the packet.
    pub epoch: Option<String>,
    /// The ingress interface.
    pub interface: Option<String>,
    /// The alternative names of the ingress interface.
    pub alternatives: Vec<String>,
    /// The transport of the packet.
    pub transport: Option<Transport>,
    /// The VLAN of the frame: 0 for an untagged frame, `None` if unknown.
    pub vlan: Option<u16>,
    /// The MAC address of the frame's sender.
    pub source_mac: Option<MacAddr>,
    /// The IP address of the datagram's sender.
    pub source: Option<IpAddr>,
    /// Whether the packet has a SecureOn password.
    pub secure_on: bool,
    /// The time of capture: CLOCK_BOOTTIME, in microseconds.
    pub boottime: Option<u64>,
}

impl From<&Dict> for PacketDetails {
    fn from(dict: &Dict) -> Self {
        let text = |key| dict.get(key).and_then(|value| <&str>::try_from(value).ok());
        Self {
            epoch: text("epoch").filter(|epoch| epoch.len() <= MAX_EPOCH).map(str::to_owned),
            interface: text("interface").filter(|it| it.len() <= MAX_INTERFACE_NAME).map(str::to_owned),
            alternatives: alternatives(dict.get("interface-alternatives")),
            transport: text("transport")
                .and_then(|name| Transport::ALL.into_iter().find(|transport| transport.as_str() == name)),
            vlan: dict.get("vlan").and_then(|value| u16::try_from(value).ok()),
            source_mac: text("source-mac").and_then(|mac| mac.parse().ok()),
            source: text("source").and_then(|address| address.parse().ok()),
            secure_on: dict.get("secureon").and_then(|value| bool::try_from(value).ok()).unwrap_or(false),
            boottime: dict.get("boottime").and_then(|value| u64::try_from(value).ok()),
        }
    }
}

impl PacketDetails {
    /// The memory that the strings use, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = self.epoch.iter().chain(&self.interface).chain(&self.alternatives);
        texts.map(|text| size_of::<String>() + text.len()).sum()
    }

    /// All names of the ingress interface; empty if it is unknown.
    pub fn interface_names(&self) -> impl Iterator<Item = &str> {
        let alternatives = self.interface.iter().flat_map(|_| &self.alternatives);
        self.interface.iter().chain(alternatives).map(String::as_str)
    }
}

/// The names in a value of type `as`, without those that exceed the announcer's limits.
fn alternatives(value: Option<&OwnedVariant>) -> Vec<String> {
    let names: Option<Vec<String>> = value.and_then(|value| value.try_clone().ok()?.try_into().ok());
    let mut names = names.unwrap_or_default();
    names.retain(|name| name.len() <= MAX_INTERFACE_NAME);
    names.truncate(MAX_ALTERNATIVES);
    names
}

/// Converts details to a body of type `a{sv}`.
#[must_use]
pub fn dict(details: Details) -> HashMap<&'static str, zbus::Variant<'static>> {
    details.into_iter().map(|(key, value)| (key, value.into())).collect()
}

impl From<Detail> for zbus::Variant<'static> {
    fn from(detail: Detail) -> Self {
        match detail {
            Detail::Text(text) => text.into(),
            Detail::Texts(texts) => texts.into(),
            Detail::Bool(truth) => truth.into(),
            Detail::U16(number) => number.into(),
            Detail::U32(number) => number.into(),
            Detail::U64(number) => number.into(),
        }
    }
}
