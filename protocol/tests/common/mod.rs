//! Builds frames layer by layer. Every header field can be given a wrong value.

#![allow(dead_code, reason = "each test program uses only some of the items")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use core::net::{Ipv4Addr, Ipv6Addr};

use wakevirt_protocol::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP};

/// The target of the magic packets.
pub(crate) const TARGET: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// The sender of the frames.
pub(crate) const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x07];
pub(crate) const SENDER4: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);
pub(crate) const SENDER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);
/// `ff02::1`, all nodes on the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const SENDER_PORT: u16 = 54321;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// The usual magic packet of 102 bytes.
pub(crate) fn magic() -> Vec<u8> {
    stream(6, TARGET, 16, b"")
}

/// This many 0xFF bytes, this many copies of an address, and the remaining bytes.
pub(crate) fn stream(sync: usize, address: [u8; 6], copies: usize, rest: &[u8]) -> Vec<u8> {
    [&vec![0xff; sync], &address.repeat(copies), rest].concat()
}

/// A broadcast frame. An EtherType below 0x0600 is a length (IEEE 802.3).
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &SENDER, &ethertype.to_be_bytes(), payload].concat()
}

/// A broadcast frame with tags, outermost first. Each tag consists of its EtherType and its control information.
pub(crate) fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(ethertype, payload);
    let tags = tags.iter().flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()]);
    frame.splice(12..12, tags.flatten());
    frame
}

/// A frame with a UDP datagram to 255.255.255.255.
pub(crate) fn udp4(port: u16, payload: &[u8]) -> Vec<u8> {
    Ipv4::default().frame(&Udp::to(port).wrap(payload))
}

/// A frame with a UDP datagram to ff02::1.
pub(crate) fn udp6(port: u16, payload: &[u8]) -> Vec<u8> {
    Ipv6::default().frame(&Udp::to(port).wrap(payload))
}

/// A UDP header without a checksum, which the parser ignores.
pub(crate) struct Udp {
    pub(crate) port: u16,
    /// Overrides the true length.
    pub(crate) length: Option<u16>,
}

impl Udp {
    pub(crate) fn to(port: u16) -> Self {
        Self { port, length: None }
    }

    pub(crate) fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let length = self.length.unwrap_or_else(|| (8 + payload.len()).try_into().unwrap());
        let header = [SENDER_PORT, self.port, length, 0].map(u16::to_be_bytes);
        [header.as_flattened(), payload].concat()
    }
}

/// An IPv4 header without a checksum, which the parser ignores.
pub(crate) struct Ipv4 {
    pub(crate) version: u8,
    /// Overrides the true length, in units of four bytes.
    pub(crate) ihl: Option<u8>,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// Overrides the true length.
    pub(crate) length: Option<u16>,
    /// Flags, and the offset in units of eight bytes.
    pub(crate) fragment: u16,
    pub(crate) protocol: u8,
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self { version: 4, ihl: None, options: vec![], length: None, fragment: 0, protocol: UDP }
    }
}

impl Ipv4 {
    pub(crate) fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let ihl = self.ihl.unwrap_or_else(|| (header / 4).try_into().unwrap());
        let length = self.length.unwrap_or_else(|| (header + payload.len()).try_into().unwrap());
        let mut packet = vec![self.version << 4 | ihl, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(SENDER4.octets());
        packet.extend(Ipv4Addr::BROADCAST.octets());
        packet.extend(&self.options);
        packet.extend(payload);
        packet
    }

    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(ETHERTYPE_IPV4, &self.wrap(payload))
    }
}

/// An IPv6 header with extension headers.
pub(crate) struct Ipv6 {
    pub(crate) version: u8,
    /// The kind and contents of each. The first byte of the contents, the next header, is set automatically.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// The protocol after them.
    pub(crate) protocol: u8,
    /// Overrides the true length.
    pub(crate) length: Option<u16>,
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self { version: 6, extensions: vec![], protocol: UDP, length: None }
    }
}

impl Ipv6 {
    pub(crate) fn with(extensions: &[(u8, Vec<u8>)]) -> Self {
        Self { extensions: extensions.to_vec(), ..Self::default() }
    }

    pub(crate) fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let mut next = self.protocol;
        let mut body = payload.to_vec();
        for (kind, contents) in self.extensions.iter().rev() {
            let rest = contents.iter().copied().skip(1);
            body.splice(0..0, std::iter::once(next).chain(rest));
            next = *kind;
        }
        let length = self.length.unwrap_or_else(|| body.len().try_into().unwrap());
        let mut packet = vec![self.version << 4, 0, 0, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(SENDER6.octets());
        packet.extend(ALL_NODES.octets());
        packet.extend(body);
        packet
    }

    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(ETHERTYPE_IPV6, &self.wrap(payload))
    }
}

/// An extension header of this kind that is this many units longer than the minimum.
pub(crate) fn extension(kind: u8, more: u8) -> (u8, Vec<u8>) {
    let more_bytes = usize::from(more);
    match kind {
        // An integrity check value of 12 bytes; units of four (RFC 4302 section 2.2).
        AUTHENTICATION => (kind, [vec![0, 4 + more], vec![0xa5; 22 + 4 * more_bytes]].concat()),
        FRAGMENT => fragment(0, true),
        _ => (kind, [vec![0, more], vec![0; 6 + 8 * more_bytes]].concat()),
    }
}

/// A fragment header (RFC 8200 section 4.5), with the offset in units of eight bytes.
pub(crate) fn fragment(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    (FRAGMENT, vec![0, 0, high, low, 0, 0, 0, 1])
}
