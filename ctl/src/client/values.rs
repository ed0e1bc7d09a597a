//! The values that the services return. Their JSON has the same keys as on the bus.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use wakevirt_protocol::bus::Dict;
use wakevirt_protocol::dict::{take, take_or_default};

use super::Details;

/// The properties of capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CaptureStatus {
    /// The version.
    pub version: String,
    /// The random value that identifies this run of capture.
    pub epoch: String,
    /// `raw` or `udp`.
    pub mode: String,
    /// The interfaces on which it captures.
    pub interfaces: Vec<String>,
    /// Their alternative names.
    pub alternative_names: BTreeMap<String, Vec<String>>,
    /// The sequence number of the latest announced packet.
    pub sequence: u64,
    /// The number of received magic packets.
    pub received: u64,
    /// The number of frames and datagrams without a magic packet.
    pub malformed: u64,
    /// The number of frames and datagrams with a magic packet that were too long to be searched completely.
    pub truncated: u64,
    /// The number of received copies of announced packets.
    pub duplicates: u64,
    /// The number of packets that exceeded a limit.
    pub limited: u64,
    /// The number of packets that the kernel dropped.
    pub kernel_dropped: u64,
    /// The number of packets that were lost between the sniffer and the announcer.
    pub channel_dropped: u64,
    /// The counters of each transport.
    pub transports: BTreeMap<String, BTreeMap<String, u64>>,
}

impl From<Dict> for CaptureStatus {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        let transports: HashMap<String, HashMap<String, u64>> = take_or_default(dict, "Transports");
        let names: HashMap<String, Vec<String>> = take_or_default(dict, "AlternativeNames");
        Self {
            version: take_or_default(dict, "Version"),
            epoch: take_or_default(dict, "Epoch"),
            mode: take_or_default(dict, "Mode"),
            interfaces: take_or_default(dict, "Interfaces"),
            alternative_names: names.into_iter().collect(),
            sequence: take_or_default(dict, "Sequence"),
            received: take_or_default(dict, "Received"),
            malformed: take_or_default(dict, "Malformed"),
            truncated: take_or_default(dict, "Truncated"),
            duplicates: take_or_default(dict, "Duplicates"),
            limited: take_or_default(dict, "Limited"),
            kernel_dropped: take_or_default(dict, "KernelDropped"),
            channel_dropped: take_or_default(dict, "ChannelDropped"),
            transports: transports
                .into_iter()
                .map(|(name, counts)| (name, counts.into_iter().collect()))
                .collect(),
        }
    }
}

/// The actor's connection to a hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HypervisorConnection {
    /// The URI.
    pub uri: String,
    /// Whether it is connected.
    pub connected: bool,
    /// The last time at which the list of its domains was current, in microseconds since 1970; 0 if it has never been
    /// connected. `None` if the actor is an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<u64>,
    /// Why it is not connected. `None` if it is connected, or the reason is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl HypervisorConnection {
    fn take(dict: &mut Dict) -> Vec<Self> {
        let connections: Vec<(String, bool)> = take_or_default(dict, "Connections");
        let times: HashMap<String, u64> =
            take_or_default::<Vec<(String, u64)>>(dict, "LastSync").into_iter().collect();
        let mut errors: HashMap<String, String> =
            take_or_default::<Vec<(String, String)>>(dict, "ConnectionErrors").into_iter().collect();
        let connection = |(uri, connected)| {
            let (last_sync, error) = (times.get(&uri).copied(), errors.remove(&uri));
            Self { uri, connected, last_sync, error }
        };
        connections.into_iter().map(connection).collect()
    }
}

/// How long successful wakes by packets took, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WakeLatency {
    /// Upper bounds, each with the number of wakes that took at most this long.
    pub buckets: Vec<(u64, u64)>,
    /// The sum of all times.
    pub sum: u64,
    /// The number of wakes.
    pub count: u64,
}

impl WakeLatency {
    fn take(dict: &mut Dict) -> Option<Self> {
        let (buckets, sum, count) = take(dict, "WakeLatency")?;
        Some(Self { buckets, sum, count })
    }
}

/// An address that no domain has, and for which packets arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownAddress {
    /// The address.
    pub mac: String,
    /// The number of packets for it while the actor remembered it.
    pub packets: u64,
    /// The ingress interface of the latest packet; empty if it is unknown.
    pub interface: String,
}

impl UnknownAddress {
    fn take(dict: &mut Dict) -> Vec<Self> {
        let addresses: Vec<(String, u64, u64, String)> = take_or_default(dict, "UnknownAddresses");
        addresses.into_iter().map(|(mac, packets, _, interface)| Self { mac, packets, interface }).collect()
    }
}

/// The properties of the actor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ActorStatus {
    /// The version.
    pub version: String,
    /// The connections to hypervisors.
    pub connections: Vec<HypervisorConnection>,
    /// Whether the configuration was valid when it was last read. True if the actor is an earlier version.
    pub configuration_valid: bool,
    /// The number of known domains.
    pub domains: u32,
    /// The number of decisions by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The number of packets for addresses that no domain has.
    pub unknown_packets: u64,
    /// The latest of these addresses, newest first.
    #[serde(skip)]
    pub unknown_addresses: Vec<UnknownAddress>,
    /// The number of announced packets that the actor missed.
    pub lost_packets: u64,
    /// How long successful wakes took. `None` if the actor is an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake_latency: Option<WakeLatency>,
}

impl From<Dict> for ActorStatus {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        let outcomes: HashMap<String, u64> = take_or_default(dict, "Outcomes");
        Self {
            version: take_or_default(dict, "Version"),
            connections: HypervisorConnection::take(dict),
            configuration_valid: take(dict, "ConfigurationValid").unwrap_or(true),
            domains: take_or_default(dict, "Domains"),
            outcomes: outcomes.into_iter().collect(),
            unknown_packets: take_or_default(dict, "UnknownPackets"),
            unknown_addresses: UnknownAddress::take(dict),
            lost_packets: take_or_default(dict, "LostPackets"),
            wake_latency: WakeLatency::take(dict),
        }
    }
}

/// A domain, as in `ListDomains`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Domain {
    /// The URI of its hypervisor.
    pub connection: String,
    /// The name.
    pub name: String,
    /// The UUID.
    pub uuid: String,
    /// The MAC addresses, including aliases.
    pub macs: Vec<String>,
    /// The state, as in virsh(1).
    pub state: String,
    /// Whether a packet can wake it.
    pub allowed: bool,
    /// The first rule that applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The time of the last successful wake, in microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_wake: Option<u64>,
}

impl From<Dict> for Domain {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            connection: take_or_default(dict, "connection"),
            name: take_or_default(dict, "name"),
            uuid: take_or_default(dict, "uuid"),
            macs: take_or_default(dict, "macs"),
            state: take_or_default(dict, "state"),
            allowed: take_or_default(dict, "allowed"),
            rule: take(dict, "rule"),
            last_wake: take(dict, "last-wake"),
        }
    }
}

/// A decision, as in `History` and `WakeFinished`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Decision {
    /// Its number, counted since the actor started. Absent in a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Its time, in microseconds since 1970. Absent in a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// The MAC address, unless a caller named the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The name of the domain, unless several have the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The outcome.
    pub outcome: String,
    /// The other details.
    #[serde(flatten)]
    pub details: DecisionDetails,
}

impl From<Dict> for Decision {
    fn from(mut dict: Dict) -> Self {
        Self {
            number: take(&mut dict, "number"),
            time: take(&mut dict, "time"),
            mac: take(&mut dict, "mac"),
            domain: take(&mut dict, "domain"),
            outcome: take_or_default(&mut dict, "outcome"),
            details: DecisionDetails::from(dict),
        }
    }
}

/// The details of a decision. Those that do not apply are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecisionDetails {
    /// `packet` or `call`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The URI of the hypervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The UUID of the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The rule that allows the wake, or whose conditions the packet does not meet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The epoch of the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The sequence number of the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The ingress interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The IP address of the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The MAC address of the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_mac: Option<String>,
    /// The user ID of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<u32>,
    /// Why the caller was authorised: `user`, `group` or `polkit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

impl From<Dict> for DecisionDetails {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            trigger: take(dict, "trigger"),
            reason: take(dict, "reason"),
            connection: take(dict, "connection"),
            uuid: take(dict, "uuid"),
            rule: take(dict, "rule"),
            epoch: take(dict, "epoch"),
            sequence: take(dict, "sequence"),
            interface: take(dict, "interface"),
            vlan: take(dict, "vlan"),
            source: take(dict, "source"),
            source_mac: take(dict, "source-mac"),
            caller: take(dict, "caller"),
            authority: take(dict, "authority"),
        }
    }
}

impl DecisionDetails {
    /// The IP address of the sender, or its MAC address. `None` if the decision is not about a packet.
    #[must_use]
    pub fn sender(&self) -> Option<&str> {
        self.source.as_deref().or(self.source_mac.as_deref())
    }

    /// The details of a packet like that of the decision, without a password.
    #[must_use]
    pub fn packet(&self) -> Details {
        let mut packet = Details::new();
        packet.extend(self.interface.clone().map(|name| ("interface", name.into())));
        packet.extend(self.source.clone().map(|address| ("source", address.into())));
        packet.extend(self.source_mac.clone().map(|mac| ("source-mac", mac.into())));
        packet.extend(self.vlan.map(|vlan| ("vlan", vlan.into())));
        packet
    }
}

/// A magic packet, as in the `MagicPacket` signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Packet {
    /// The sequence number.
    pub sequence: u64,
    /// The MAC address to wake.
    pub mac: String,
    /// The epoch in which the sequence number was assigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The ingress interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its alternative names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_alternatives: Option<Vec<String>>,
    /// `ethernet`, `udp4` or `udp6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The MAC address of the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_mac: Option<String>,
    /// The IP address of the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The port of the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The destination address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// The EtherType of a frame without IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<u16>,
    /// The outermost VLAN, or 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Whether it has a SecureOn password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secureon: Option<bool>,
    /// When it was received: CLOCK_REALTIME, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// When it was received: CLOCK_BOOTTIME, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boottime: Option<u64>,
}

impl Packet {
    /// The packet in a signal or in a reply to `Replay`.
    pub(super) fn new(sequence: u64, mac: String, mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            sequence,
            mac,
            epoch: take(dict, "epoch"),
            interface: take(dict, "interface"),
            interface_alternatives: take(dict, "interface-alternatives"),
            transport: take(dict, "transport"),
            source_mac: take(dict, "source-mac"),
            source: take(dict, "source"),
            source_port: take(dict, "source-port"),
            destination: take(dict, "destination"),
            destination_port: take(dict, "destination-port"),
            ethertype: take(dict, "ethertype"),
            vlan: take(dict, "vlan"),
            secureon: take(dict, "secureon"),
            timestamp: take(dict, "timestamp"),
            boottime: take(dict, "boottime"),
        }
    }

    /// The IP address of the sender, or its MAC address.
    #[must_use]
    pub fn sender(&self) -> Option<&str> {
        self.source.as_deref().or(self.source_mac.as_deref())
    }
}
