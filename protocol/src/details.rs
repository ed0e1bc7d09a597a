//! The details of a sighting, under the keys that D-Bus and `wakevirtctl read` share.

use serde::Serialize;

use crate::packet::{ParsedPacket, Stamp};
use crate::{Carrier, MacAddr, UdpPath, VlanId};

/// The most alternative names of an interface that are used, and told.
pub const MAX_ALTERNATIVES: usize = 16;
/// The longest alternative name, in bytes: `ALTIFNAMSIZ` less its zero (linux/if.h).
pub const MAX_INTERFACE_NAME: usize = 127;

/// A value among the details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// A text: D-Bus `s`.
    Text(String),
    /// Several texts: D-Bus `as`.
    Texts(Vec<String>),
    /// A truth value: D-Bus `b`.
    Bool(bool),
    /// A small number: D-Bus `q`.
    U16(u16),
    /// A count: D-Bus `u`.
    U32(u32),
    /// A large number: D-Bus `t`.
    U64(u64),
}

/// Details under their keys. A key that does not apply is absent.
pub type Details = Vec<(&'static str, Detail)>;

impl ParsedPacket {
    /// The details that the packet itself gives, and when it was seen: all but the ingress
    /// interface's names, which only the announcer knows.
    ///
    /// `secureon` tells whether there was a password; the password itself is never among them.
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
    /// The VLAN that the frame was tagged for: 0 for none, and nothing where the frame's header is not known.
    ///
    /// A UDP socket delivers no header. The sender's MAC address tells whether there was one.
    fn tag(&self) -> Option<u16> {
        let untagged = || self.carrier.source_mac().map(|_| 0);
        self.vlan.map(VlanId::get).or_else(untagged)
    }
}

impl Carrier {
    /// The name of the transport, as the details have it.
    #[must_use]
    pub const fn transport(&self) -> &'static str {
        match self {
            Self::Ethernet { .. } => "ethernet",
            Self::Udp4(_) => "udp4",
            Self::Udp6(_) => "udp6",
        }
    }

    /// Who sent it, for people: the IP address, else the MAC address, where the link has such.
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
        let mut details = vec![("transport", Detail::Text(self.transport().to_owned()))];
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
