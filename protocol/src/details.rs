//! The details of a captured packet, with the keys that D-Bus and `wakevirtctl read` share.

use serde::{Deserialize, Serialize};

use crate::packet::{ParsedPacket, Stamp};
use crate::{Carrier, MacAddr, UdpPath, VlanId};

/// The maximum number of an interface's alternative names that wakevirt uses and publishes.
pub const MAX_ALTERNATIVES: usize = 16;
/// The maximum length of an alternative name, in bytes: `ALTIFNAMSIZ` without the terminating zero (linux/if.h).
pub const MAX_INTERFACE_NAME: usize = 127;

/// The value of a detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// A string: D-Bus `s`.
    Text(String),
    /// Several strings: D-Bus `as`.
    Texts(Vec<String>),
    /// A boolean: D-Bus `b`.
    Bool(bool),
    /// A number: D-Bus `q`.
    U16(u16),
    /// A number: D-Bus `u`.
    U32(u32),
    /// A number: D-Bus `t`.
    U64(u64),
}

/// Details with their keys. A key that does not apply is absent.
pub type Details = Vec<(&'static str, Detail)>;

impl ParsedPacket {
    /// All details except the epoch and the names of the ingress interface, which only the announcer knows.
    ///
    /// `secureon` says whether the packet has a password. The password itself is not a detail.
    #[must_use]
    pub fn details(&self, stamp: Stamp) -> Details {
        let mut details = self.carrier.details();
        details.extend(self.tag().map(|vlan| ("vlan", Detail::U16(vlan))));
        details.push(("secureon", Detail::Bool(self.magic.password().is_some())));
        details.push(("timestamp", Detail::U64(stamp.timestamp)));
        details.extend(stamp.boottime.map(|boottime| ("boottime", Detail::U64(boottime))));
        details
    }
}

impl ParsedPacket {
    /// The VLAN of the frame: 0 for an untagged frame, `None` if the frame's header is unknown.
    ///
    /// A UDP socket does not deliver the header. Only the header contains the sender's MAC address.
    fn tag(&self) -> Option<u16> {
        let untagged = || self.carrier.source_mac().map(|_| 0);
        self.vlan.map(VlanId::get).or_else(untagged)
    }
}

/// The way in which a magic packet was carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// A magic packet directly in an Ethernet frame.
    Ethernet,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Transport {
    /// All transports.
    pub const ALL: [Self; 3] = [Self::Ethernet, Self::Udp4, Self::Udp6];

    /// The name of the transport in the details and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ethernet => "ethernet",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }
}

impl Carrier {
    /// The transport.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Ethernet { .. } => Transport::Ethernet,
            Self::Udp4(_) => Transport::Udp4,
            Self::Udp6(_) => Transport::Udp6,
        }
    }

    /// The sender, for log messages: the IP address of a datagram, or the MAC address of a frame if the link has MAC
    /// addresses.
    #[must_use]
    pub fn sender(&self) -> Option<String> {
        match self {
            Self::Ethernet { source, .. } => source.map(|mac| mac.to_string()),
            Self::Udp4(path) => Some(path.source.to_string()),
            Self::Udp6(path) => Some(path.source.to_string()),
        }
    }

    const fn source_mac(&self) -> Option<MacAddr> {
        match self {
            Self::Ethernet { source, .. } => *source,
            Self::Udp4(path) => path.source_mac,
            Self::Udp6(path) => path.source_mac,
        }
    }

    fn details(&self) -> Details {
        let mut details = vec![("transport", Detail::Text(self.transport().as_str().to_owned()))];
        match self {
            Self::Ethernet { ethertype, source } => {
                details.extend(source.map(|mac| ("source-mac", Detail::Text(mac.to_string()))));
                details.extend(ethertype.map(|ethertype| ("ethertype", Detail::U16(ethertype))));
            }
            Self::Udp4(path) => details.extend(path.details()),
            Self::Udp6(path) => details.extend(path.details()),
        }
        details
    }
}

impl<Address: ToString> UdpPath<Address> {
    fn details(&self) -> impl Iterator<Item = (&'static str, Detail)> {
        let source_mac = self.source_mac.map(|mac| ("source-mac", Detail::Text(mac.to_string())));
        source_mac.into_iter().chain([
            ("source", Detail::Text(self.source.to_string())),
            ("source-port", Detail::U16(self.source_port)),
            ("destination", Detail::Text(self.destination.to_string())),
            ("destination-port", Detail::U16(self.destination_port)),
        ])
    }
}
