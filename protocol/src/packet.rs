//! A captured magic packet: its content, carrier, ingress interface and time of capture.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{MacAddr, MagicPacket};

/// A magic packet that the parser found in a frame or datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParsedPacket {
    /// The magic packet.
    pub magic: MagicPacket,
    /// The frame or datagram that carried it.
    pub carrier: Carrier,
    /// The outermost VLAN of the frame.
    pub vlan: Option<VlanId>,
}

/// A magic packet that the sniffer captured on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// The magic packet and its carrier.
    pub packet: ParsedPacket,
    /// The kernel's index of the ingress interface (netdevice(7)); 0 if unknown.
    pub interface: u32,
}

/// When a magic packet was captured. In a live capture, the announcer sets the time, because the sniffer is not
/// trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// CLOCK_REALTIME, in microseconds since 1970-01-01 00:00 UTC.
    pub timestamp: u64,
    /// CLOCK_BOOTTIME, in microseconds since boot, including sleep; `None` in a savefile.
    pub boottime: Option<u64>,
}

/// The frame or datagram that carried a magic packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// A frame with the magic packet directly in its payload.
    Ethernet {
        /// The EtherType, in host byte order; `None` if the frame has a length instead (IEEE 802.3).
        ethertype: Option<u16>,
        /// The sender's MAC address, if the link has MAC addresses.
        source: Option<MacAddr>,
    },
    /// A UDP datagram over IPv4.
    Udp4(UdpPath<Ipv4Addr>),
    /// A UDP datagram over IPv6.
    Udp6(UdpPath<Ipv6Addr>),
}

/// The sender of a magic packet. A packet from another sender is not a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The sender of a frame, if its link has MAC addresses.
    Mac(Option<MacAddr>),
    /// The sender of a datagram.
    Ip(IpAddr),
}

impl Carrier {
    /// The sender.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self {
            Self::Ethernet { source, .. } => Origin::Mac(*source),
            Self::Udp4(path) => Origin::Ip(path.source.into()),
            Self::Udp6(path) => Origin::Ip(path.source.into()),
        }
    }
}

/// The addresses and ports of a UDP datagram. Ports are in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpPath<Address> {
    /// The MAC address of the frame's sender. It is unknown if a UDP socket received the datagram, or if the link has
    /// no MAC addresses.
    pub source_mac: Option<MacAddr>,
    /// The sender's IP address.
    pub source: Address,
    /// The sender's port.
    pub source_port: u16,
    /// The destination IP address, often a broadcast or multicast address.
    pub destination: Address,
    /// The destination port.
    pub destination_port: u16,
}

/// The identifier of a VLAN: 1 to 4094 (IEEE 802.1Q-2018 table 9-2). 0 marks a tag with only a priority, and 4095 is
/// reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN in a tag control information field (host byte order), if the field contains one.
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
        Self::from_tci(id).filter(|vlan| vlan.0 == id).ok_or("a VLAN identifier must be between 1 and 4094")
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.0
    }
}
