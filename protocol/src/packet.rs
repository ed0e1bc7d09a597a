//! A magic packet as it was seen: what it says, what carried it, where and when.

use core::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{MacAddr, MagicPacket};

/// What the acceptance function found: the magic packet and what carried it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParsedPacket {
    /// The magic packet itself.
    pub magic: MagicPacket,
    /// What carried it.
    pub carrier: Carrier,
    /// The outermost VLAN that it was tagged for.
    pub vlan: Option<VlanId>,
}

/// A magic packet, with the place at which the sniffer saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// The magic packet and what carried it.
    pub packet: ParsedPacket,
    /// The kernel's index of the ingress interface (netdevice(7)); 0 where it is not known.
    pub interface: u32,
}

/// When a magic packet was seen. The announcer stamps live packets: a time from the sniffer would
/// have to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// CLOCK_REALTIME, in microseconds since 1970-01-01 00:00 UTC.
    pub timestamp: u64,
    /// CLOCK_BOOTTIME, in microseconds since boot, sleep included; absent in a savefile.
    pub boottime: Option<u64>,
}

/// What carried a magic packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// A frame whose payload holds it directly.
    Ethernet {
        /// The EtherType, in host byte order; absent where the frame has a length instead (IEEE 802.3).
        ethertype: Option<u16>,
        /// Who sent the frame, as far as the link has such addresses.
        source: Option<MacAddr>,
    },
    /// A UDP datagram over IPv4.
    Udp4(UdpPath<Ipv4Addr>),
    /// A UDP datagram over IPv6.
    Udp6(UdpPath<Ipv6Addr>),
}

/// The way of a UDP datagram. Ports are in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpPath<Address> {
    /// Who sent the frame around it: unknown where a UDP socket heard it, or the link has no such addresses.
    pub source_mac: Option<MacAddr>,
    /// The address that it came from.
    pub source: Address,
    /// The port that it came from.
    pub source_port: u16,
    /// The address that it was sent to, often a broadcast or multicast one.
    pub destination: Address,
    /// The port that it was sent to.
    pub destination_port: u16,
}

/// The identifier of a VLAN: 1 to 4094 (IEEE 802.1Q-2018 table 9-2; 0 means a tag that carries a
/// priority only, 4095 is reserved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN in a tag control information field (host byte order), where it names one.
    #[must_use]
    pub const fn from_tci(tci: u16) -> Option<Self> {
        match tci & 0x0fff {
            0 | 0x0fff => None,
            id => Some(Self(id)),
        }
    }

    /// The identifier as a number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = &'static str;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        Self::from_tci(id).filter(|vlan| vlan.0 == id).ok_or("a VLAN identifier is between 1 and 4094")
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.0
    }
}
