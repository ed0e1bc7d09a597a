//! The acceptance function: which frames hold magic packets, live and in savefiles.
//!
//! The kernel's filter passes a superset of what is accepted here, and nothing behind this module
//! decides again. Every byte that it reads may come from an enemy: headers are read through slices
//! that end where the data ends, lengths in headers can only shorten them.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::magic::MagicPackets;
use crate::packet::ParsedPacket;
use crate::{Carrier, MacAddr, MagicPacket, UdpPath, VlanId};

/// Wake-on-LAN's EtherType (IANA "ieee-802-numbers").
pub const ETHERTYPE_WOL: u16 = 0x0842;
/// The EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The EtherTypes of tags: 802.1Q, 802.1ad, and what came before 802.1ad.
pub const ETHERTYPES_TAG: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// The smallest EtherType; what is less is a length (IEEE 802.3-2018 3.2.6) or a pseudo protocol of the kernel.
const SMALLEST_ETHERTYPE: u16 = 0x0600;
/// Tags that a frame may have: a service tag and a customer tag.
pub const MAX_TAGS: usize = 2;
/// Extension headers that an IPv6 packet may have in front of UDP.
pub const MAX_EXTENSION_HEADERS: usize = 4;
/// How much of a frame without its link header, or of a datagram, is searched, in bytes. A single magic
/// packet never needs as much; datagrams that the kernel merged may come to 64 KiB.
pub const SEARCHED: usize = 2048;
/// The protocol number of UDP (IANA "protocol-numbers").
pub const UDP: u8 = 17;

/// A frame without its link header: what every kind of link has in common, and what a packet socket
/// of type `SOCK_DGRAM` delivers (packet(7)).
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The EtherType in host byte order, or a smaller number where the frame has a length instead
    /// (which bounds nothing here: a packet socket does not tell it, and savefiles are judged alike).
    pub protocol: u16,
    /// The tag control information (host byte order) of an outer tag that was already taken off.
    pub tag: Option<u16>,
    /// The sender's MAC address, where the link has them.
    pub source: Option<MacAddr>,
    /// What follows the link header, as far as it was captured.
    pub payload: &'a [u8],
}

/// Why a frame holds no magic packet that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The payload, which is searched in full, holds none.
    #[error("no magic packet in the payload")]
    NoMagicPacket,
    /// The payload does not begin with one, and is not of a kind that is searched in full.
    #[error("the payload does not start with a magic packet")]
    NotAtStart,
    /// A header goes beyond the data, or contradicts itself.
    #[error("a header is truncated or inconsistent")]
    BadHeader,
    /// More than two tags.
    #[error("more than two VLAN tags")]
    TooManyTags,
    /// An IP packet that is not UDP.
    #[error("the IP packet is not UDP")]
    NotUdp,
    /// A fragment that is not the first: it has no UDP header.
    #[error("a fragment after the first, without a UDP header")]
    LaterFragment,
    /// More than four extension headers.
    #[error("more than four IPv6 extension headers")]
    TooManyExtensionHeaders,
}

/// The UDP ports whose payload is searched in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<u16>);

impl Ports {
    /// These ports.
    #[must_use]
    pub fn new(mut ports: Vec<u16>) -> Self {
        ports.sort_unstable();
        ports.dedup();
        Self(ports)
    }

    /// The ports in ascending order, each once.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }

    /// Whether the payload of datagrams to this port is searched in full.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
    }
}

impl Default for Ports {
    /// 0, 7 (echo) and 9 (discard): where senders have always sent.
    fn default() -> Self {
        Self::new(vec![0, 7, 9])
    }
}

/// The magic packets of a frame or datagram that counts: at least one, in their order.
#[derive(Debug, Clone)]
pub struct ParsedPackets<'a> {
    /// What they say.
    pub packets: MagicPackets<'a>,
    /// What carried all of them.
    pub carrier: Carrier,
    /// The VLAN that the frame is in.
    pub vlan: Option<VlanId>,
}

impl Iterator for ParsedPackets<'_> {
    type Item = ParsedPacket;

    fn next(&mut self) -> Option<ParsedPacket> {
        let magic = self.packets.next()?;
        Some(ParsedPacket { magic, carrier: self.carrier.clone(), vlan: self.vlan })
    }
}

/// Decides which magic packets that count the frame holds: those in its first [`SEARCHED`] bytes.
///
/// # Errors
/// [`Refusal`] says why it holds none.
pub fn parse_frame<'a>(frame: &Frame<'a>, ports: &Ports) -> Result<ParsedPackets<'a>, Refusal> {
    let searched = frame.payload.get(..SEARCHED).unwrap_or(frame.payload);
    let (vlan, protocol, payload) = untag(&Frame { payload: searched, ..*frame })?;
    let (packets, carrier) = match protocol {
        ETHERTYPE_IPV4 => ipv4(payload, frame.source, ports)?,
        ETHERTYPE_IPV6 => ipv6(payload, frame.source, ports)?,
        _ => {
            let packets = search(payload, protocol == ETHERTYPE_WOL)?;
            let ethertype = (protocol >= SMALLEST_ETHERTYPE).then_some(protocol);
            (packets, Carrier::Ethernet { ethertype, source: frame.source })
        }
    };
    Ok(ParsedPackets { packets: without_cut_password(packets, searched), carrier, vlan })
}

/// Decides which magic packets that count the payload of a datagram to this port holds: those in its first
/// [`SEARCHED`] bytes.
///
/// # Errors
/// [`Refusal`] says why it holds none.
pub fn parse_datagram<'a>(payload: &'a [u8], port: u16, ports: &Ports) -> Result<MagicPackets<'a>, Refusal> {
    let searched = payload.get(..SEARCHED).unwrap_or(payload);
    Ok(without_cut_password(search(searched, ports.contains(port))?, searched))
}

/// Reads no password where the bytes reach the limit: what looks like one may be the beginning of another
/// datagram that was cut off.
fn without_cut_password<'a>(packets: MagicPackets<'a>, searched: &[u8]) -> MagicPackets<'a> {
    if searched.len() < SEARCHED { packets } else { packets.without_passwords() }
}

fn search(payload: &[u8], in_full: bool) -> Result<MagicPackets<'_>, Refusal> {
    let (packets, refusal) = if in_full {
        (MagicPacket::find(payload), Refusal::NoMagicPacket)
    } else {
        (MagicPacket::at_start(payload), Refusal::NotAtStart)
    };
    if packets.is_empty() { Err(refusal) } else { Ok(packets) }
}

/// Takes the tags off: the outermost VLAN, what lies under the tags, and the rest.
///
/// A tag of VLAN 0 carries a priority only, and leaves the VLAN to the next one.
fn untag<'a>(frame: &Frame<'a>) -> Result<(Option<VlanId>, u16, &'a [u8]), Refusal> {
    let Frame { tag, mut protocol, mut payload, .. } = *frame;
    let mut vlan = tag.map_or(Ok(None), vlan_of)?;
    let mut tags = usize::from(tag.is_some());
    while ETHERTYPES_TAG.contains(&protocol) {
        tags += 1;
        if tags > MAX_TAGS {
            return Err(Refusal::TooManyTags);
        }
        let ([control @ .., high, low], rest) = payload.split_first_chunk::<4>().ok_or(Refusal::BadHeader)?;
        vlan = vlan.or(vlan_of(u16::from_be_bytes(*control))?);
        protocol = u16::from_be_bytes([*high, *low]);
        payload = rest;
    }
    Ok((vlan, protocol, payload))
}

/// The VLAN that a tag names, where it carries more than a priority. The reserved one may not be sent, and
/// is not taken for none.
fn vlan_of(tci: u16) -> Result<Option<VlanId>, Refusal> {
    if tci & 0x0fff == 0x0fff { Err(Refusal::BadHeader) } else { Ok(VlanId::from_tci(tci)) }
}

/// IPv4, RFC 791 section 3.1.
fn ipv4<'a>(
    packet: &'a [u8],
    source_mac: Option<MacAddr>,
    ports: &Ports,
) -> Result<(MagicPackets<'a>, Carrier), Refusal> {
    let header = packet.first_chunk::<20>().ok_or(Refusal::BadHeader)?;
    let [
        version_ihl,
        _,
        length_high,
        length_low,
        _,
        _,
        fragment_high,
        fragment_low,
        _,
        protocol,
        _,
        _,
        addresses @ ..,
    ] = header;
    if version_ihl >> 4 != 4 {
        return Err(Refusal::BadHeader);
    }
    if *protocol != UDP {
        return Err(Refusal::NotUdp);
    }
    if u16::from_be_bytes([*fragment_high, *fragment_low]) & 0x1fff != 0 {
        return Err(Refusal::LaterFragment);
    }
    let header_length = usize::from(version_ihl & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    if header_length < header.len() {
        return Err(Refusal::BadHeader);
    }
    let end = total_length.min(packet.len());
    let datagram = packet.get(header_length..end).ok_or(Refusal::BadHeader)?;
    let [s0, s1, s2, s3, destination @ ..] = *addresses;
    let (path, payload) =
        udp(datagram, source_mac, Ipv4Addr::from([s0, s1, s2, s3]), Ipv4Addr::from(destination))?;
    Ok((search(payload, ports.contains(path.destination_port))?, Carrier::Udp4(path)))
}

/// IPv6, RFC 8200 sections 3 and 4.
fn ipv6<'a>(
    packet: &'a [u8],
    source_mac: Option<MacAddr>,
    ports: &Ports,
) -> Result<(MagicPackets<'a>, Carrier), Refusal> {
    let (header, rest) = packet.split_first_chunk::<40>().ok_or(Refusal::BadHeader)?;
    let [version, _, _, _, length_high, length_low, next, _, addresses @ ..] = header;
    if version >> 4 != 6 {
        return Err(Refusal::BadHeader);
    }
    let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    let rest = rest.get(..length.min(rest.len())).ok_or(Refusal::BadHeader)?;
    let datagram = behind_extension_headers(rest, *next)?;
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(Refusal::BadHeader)?;
    let destination = destination.first_chunk::<16>().ok_or(Refusal::BadHeader)?;
    let (path, payload) = udp(datagram, source_mac, Ipv6Addr::from(*source), Ipv6Addr::from(*destination))?;
    Ok((search(payload, ports.contains(path.destination_port))?, Carrier::Udp6(path)))
}

/// Skips the extension headers between the IPv6 header and UDP.
fn behind_extension_headers(mut rest: &[u8], mut next: u8) -> Result<&[u8], Refusal> {
    let mut headers = 0;
    while next != UDP {
        let [following, length, third, fourth] = *rest.first_chunk().ok_or(Refusal::BadHeader)?;
        let skipped = match next {
            // Hop-by-hop options, routing, destination options: units of 8 octets, the first not counted.
            0 | 43 | 60 => (usize::from(length) + 1) * 8,
            // Fragment: 8 octets, no length.
            44 if u16::from_be_bytes([third, fourth]) & 0xfff8 != 0 => return Err(Refusal::LaterFragment),
            44 => 8,
            // Authentication: units of 4 octets, the first two not counted (RFC 4302 section 2.2).
            51 => (usize::from(length) + 2) * 4,
            _ => return Err(Refusal::NotUdp),
        };
        headers += 1;
        if headers > MAX_EXTENSION_HEADERS {
            return Err(Refusal::TooManyExtensionHeaders);
        }
        rest = rest.get(skipped..).ok_or(Refusal::BadHeader)?;
        next = following;
    }
    Ok(rest)
}

/// UDP, RFC 768. The checksum is not looked at: network cards do not, and in a datagram from the
/// same host it is often still to be computed.
fn udp<Address>(
    datagram: &[u8],
    source_mac: Option<MacAddr>,
    source: Address,
    destination: Address,
) -> Result<(UdpPath<Address>, &[u8]), Refusal> {
    let (header, payload) = datagram.split_first_chunk::<8>().ok_or(Refusal::BadHeader)?;
    let [s0, s1, d0, d1, l0, l1, _, _] = *header;
    let length =
        usize::from(u16::from_be_bytes([l0, l1])).checked_sub(header.len()).ok_or(Refusal::BadHeader)?;
    let payload = payload.get(..length.min(payload.len())).ok_or(Refusal::BadHeader)?;
    let path = UdpPath {
        source_mac,
        source,
        source_port: u16::from_be_bytes([s0, s1]),
        destination,
        destination_port: u16::from_be_bytes([d0, d1]),
    };
    Ok((path, payload))
}
