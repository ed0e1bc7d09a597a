//! The link headers in savefiles, which precede each [`Frame`].
//!
//! In a live capture, the kernel delivers frames without their link headers.

use crate::MacAddr;
use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame};

/// The type of the link headers in a savefile, for Ethernet-like and raw-IP links.
///
/// Numbers and layouts: <https://www.tcpdump.org/linktypes.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// LINKTYPE_ETHERNET.
    Ethernet,
    /// LINKTYPE_NULL: an address family in the byte order of the capturing machine.
    Null,
    /// LINKTYPE_LOOP: an address family in network byte order.
    Loop,
    /// LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6: no header before the IP header.
    Raw,
    /// LINKTYPE_LINUX_SLL.
    LinuxSll,
    /// LINKTYPE_LINUX_SLL2.
    LinuxSll2,
}

/// ARPHRD_ETHER (linux/if_arp.h): interfaces with MAC addresses.
const ARPHRD_ETHER: u16 = 1;
/// ARPHRD_LOOPBACK (linux/if_arp.h): like Ethernet, with all-zero addresses.
const ARPHRD_LOOPBACK: u16 = 772;

impl LinkType {
    /// The type with this number in a savefile, or in libpcap if its number differs (`DLT_RAW` is 12 or 14).
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Null),
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            108 => Some(Self::Loop),
            113 => Some(Self::LinuxSll),
            276 => Some(Self::LinuxSll2),
            _ => None,
        }
    }

    /// Removes the link header. Returns `None` if the header is truncated or its protocol is unknown.
    #[must_use]
    pub fn strip(self, bytes: &[u8]) -> Option<Frame<'_>> {
        match self {
            Self::Ethernet => ethernet(bytes),
            Self::Null | Self::Loop => {
                // The family may be in either byte order, and the number for IPv6 differs between systems. The
                // version field of the packet is unambiguous.
                let (_, packet) = bytes.split_first_chunk::<4>()?;
                raw(packet)
            }
            Self::Raw => raw(bytes),
            Self::LinuxSll => sll(bytes),
            Self::LinuxSll2 => sll2(bytes),
        }
    }
}

fn ethernet(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, payload) = bytes.split_first_chunk::<14>()?;
    let [_, _, _, _, _, _, source @ .., t0, t1] = *header;
    Some(Frame {
        protocol: u16::from_be_bytes([t0, t1]),
        tag: None,
        source: Some(MacAddr::new(source)),
        payload,
    })
}

fn raw(packet: &[u8]) -> Option<Frame<'_>> {
    let protocol = match packet.first()? >> 4 {
        4 => ETHERTYPE_IPV4,
        6 => ETHERTYPE_IPV6,
        _ => return None,
    };
    Some(Frame { protocol, tag: None, source: None, payload: packet })
}

fn sll(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, payload) = bytes.split_first_chunk::<16>()?;
    let [_, _, h0, h1, l0, l1, address @ .., p0, p1] = *header;
    let source = sender(u16::from_be_bytes([h0, h1]), u16::from_be_bytes([l0, l1]), address);
    Some(Frame { protocol: u16::from_be_bytes([p0, p1]), tag: None, source, payload })
}

fn sll2(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, payload) = bytes.split_first_chunk::<20>()?;
    let [p0, p1, _, _, _, _, _, _, h0, h1, _, length, address @ ..] = *header;
    let source = sender(u16::from_be_bytes([h0, h1]), u16::from(length), address);
    Some(Frame { protocol: u16::from_be_bytes([p0, p1]), tag: None, source, payload })
}

/// The sender's MAC address, if the interface has MAC addresses.
///
/// `kind` is an ARPHRD number, and `length` is the length of the address in octets. Both are in host byte order.
#[must_use]
pub fn sender(kind: u16, length: u16, address: [u8; 8]) -> Option<MacAddr> {
    let [mac @ .., _, _] = address;
    (matches!(kind, ARPHRD_ETHER | ARPHRD_LOOPBACK) && length == 6).then_some(MacAddr::new(mac))
}
