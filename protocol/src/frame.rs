//! The packet parser. It decides which frames contain magic packets, in live captures and in savefiles.
//!
//! The kernel's filter passes a superset of what this module accepts, and no later code checks the bytes again.
//! Every byte may come from an attacker: the parser reads headers from slices that end with the data, and lengths
//! in headers can only shorten these slices.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::magic::MagicPackets;
use crate::packet::ParsedPacket;
use crate::{Carrier, MacAddr, MagicPacket, UdpPath, VlanId};

/// The EtherType of Wake-on-LAN (IANA "ieee-802-numbers").
pub const ETHERTYPE_WOL: u16 = 0x0842;
/// The EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The EtherTypes of VLAN tags: 802.1Q, 802.1ad, and the predecessor of 802.1ad.
pub const ETHERTYPES_TAG: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// The smallest EtherType. A smaller number is a length (IEEE 802.3-2018 3.2.6) or a pseudo-protocol of the kernel.
const MIN_ETHERTYPE: u16 = 0x0600;
/// The maximum number of VLAN tags of a frame: a service tag and a customer tag.
pub const MAX_TAGS: usize = 2;
/// The maximum number of extension headers before UDP in an IPv6 packet.
pub const MAX_EXTENSION_HEADERS: usize = 4;
/// The number of bytes of a datagram, or of a frame without its link header, that are searched. An ordinary frame
/// or datagram with one magic packet is shorter; datagrams that the kernel merged can be up to 64 KiB long.
pub const SEARCHED: usize = 2048;
/// The protocol number of UDP (IANA "protocol-numbers").
pub const UDP: u8 = 17;

/// A frame without its link header. This form is common to all link types. A packet socket of type `SOCK_DGRAM` also
/// delivers it (packet(7)).
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The EtherType in host byte order, or a smaller number if the frame has a length instead. The parser ignores
    /// that length: a packet socket does not deliver it, and savefiles must give the same result.
    pub protocol: u16,
    /// The tag control information (host byte order) of an outer tag that has already been removed.
    pub tag: Option<u16>,
    /// The sender's MAC address, if the link has MAC addresses.
    pub source: Option<MacAddr>,
    /// The captured bytes after the link header.
    pub payload: &'a [u8],
}

/// Why the parser rejects a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The payload, which is searched in full, contains no magic packet.
    #[error("no magic packet in the payload")]
    NoMagicPacket,
    /// The payload does not begin with a magic packet, and is not searched in full.
    #[error("the payload does not start with a magic packet")]
    NotAtStart,
    /// A header extends beyond the data, or is inconsistent.
    #[error("a header is truncated or inconsistent")]
    BadHeader,
    /// More than [`MAX_TAGS`] tags.
    #[error("more than two VLAN tags")]
    TooManyTags,
    /// An IP packet that is not UDP.
    #[error("the IP packet is not UDP")]
    NotUdp,
    /// A fragment after the first, which has no UDP header.
    #[error("a fragment after the first, without a UDP header")]
    LaterFragment,
    /// More than [`MAX_EXTENSION_HEADERS`] extension headers.
    #[error("more than four IPv6 extension headers")]
    TooManyExtensionHeaders,
}

/// The UDP ports for which the payload is searched in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<u16>);

impl Ports {
    /// Creates a set of these ports.
    #[must_use]
    pub fn new(mut ports: Vec<u16>) -> Self {
        ports.sort_unstable();
        ports.dedup();
        Self(ports)
    }

    /// The ports in ascending order, without duplicates.
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
    /// 0, 7 (echo) and 9 (discard): the traditional ports of senders.
    fn default() -> Self {
        Self::new(vec![0, 7, 9])
    }
}

/// The magic packets of an accepted frame or datagram: at least one, in order.
#[derive(Debug, Clone)]
pub struct ParsedPackets<'a> {
    /// The magic packets.
    pub packets: MagicPackets<'a>,
    /// The frame or datagram that carried them.
    pub carrier: Carrier,
    /// The VLAN of the frame.
    pub vlan: Option<VlanId>,
}

impl Iterator for ParsedPackets<'_> {
    type Item = ParsedPacket;

    fn next(&mut self) -> Option<ParsedPacket> {
        let magic = self.packets.next()?;
        Some(ParsedPacket { magic, carrier: self.carrier.clone(), vlan: self.vlan })
    }
}

/// Finds the magic packets in the first [`SEARCHED`] bytes of a frame.
///
/// # Errors
/// [`Rejection`] says why the frame is rejected.
pub fn parse_frame<'a>(frame: &Frame<'a>, ports: &Ports) -> Result<ParsedPackets<'a>, Rejection> {
    let searched = frame.payload.get(..SEARCHED).unwrap_or(frame.payload);
    let (vlan, protocol, payload) = untag(&Frame { payload: searched, ..*frame })?;
    let (packets, carrier) = match protocol {
        ETHERTYPE_IPV4 => ipv4(payload, frame.source, ports)?,
        ETHERTYPE_IPV6 => ipv6(payload, frame.source, ports)?,
        _ => {
            let packets = search(payload, protocol == ETHERTYPE_WOL)?;
            let ethertype = (protocol >= MIN_ETHERTYPE).then_some(protocol);
            (packets, Carrier::Ethernet { ethertype, source: frame.source })
        }
    };
    Ok(ParsedPackets { packets: without_truncated_password(packets, searched), carrier, vlan })
}

/// Finds the magic packets in the first [`SEARCHED`] bytes of a UDP payload. `port` is the destination port.
///
/// # Errors
/// [`Rejection`] says why the payload is rejected.
pub fn parse_datagram<'a>(
    payload: &'a [u8],
    port: u16,
    ports: &Ports,
) -> Result<MagicPackets<'a>, Rejection> {
    let searched = payload.get(..SEARCHED).unwrap_or(payload);
    Ok(without_truncated_password(search(searched, ports.contains(port))?, searched))
}

/// Ignores passwords if the data reaches the limit: what looks like a password may be the beginning of a truncated
/// datagram.
fn without_truncated_password<'a>(packets: MagicPackets<'a>, searched: &[u8]) -> MagicPackets<'a> {
    if searched.len() < SEARCHED { packets } else { packets.without_passwords() }
}

fn search(payload: &[u8], in_full: bool) -> Result<MagicPackets<'_>, Rejection> {
    let (packets, rejection) = if in_full {
        (MagicPacket::find(payload), Rejection::NoMagicPacket)
    } else {
        (MagicPacket::at_start(payload), Rejection::NotAtStart)
    };
    if packets.is_empty() { Err(rejection) } else { Ok(packets) }
}

/// Removes the tags. Returns the outermost VLAN, the EtherType after the tags, and the bytes after it.
///
/// A tag with VLAN 0 has only a priority; the next tag sets the VLAN.
fn untag<'a>(frame: &Frame<'a>) -> Result<(Option<VlanId>, u16, &'a [u8]), Rejection> {
    let Frame { tag, mut protocol, mut payload, .. } = *frame;
    let mut vlan = tag.map_or(Ok(None), vlan_of)?;
    let mut tags = usize::from(tag.is_some());
    while ETHERTYPES_TAG.contains(&protocol) {
        tags += 1;
        if tags > MAX_TAGS {
            return Err(Rejection::TooManyTags);
        }
        let ([control @ .., high, low], rest) =
            payload.split_first_chunk::<4>().ok_or(Rejection::BadHeader)?;
        vlan = vlan.or(vlan_of(u16::from_be_bytes(*control))?);
        protocol = u16::from_be_bytes([*high, *low]);
        payload = rest;
    }
    Ok((vlan, protocol, payload))
}

/// The VLAN of a tag; `None` if the tag has only a priority. The reserved VLAN 4095 must not be transmitted, and is
/// therefore an error.
fn vlan_of(tci: u16) -> Result<Option<VlanId>, Rejection> {
    if tci & 0x0fff == 0x0fff { Err(Rejection::BadHeader) } else { Ok(VlanId::from_tci(tci)) }
}

/// IPv4, RFC 791 section 3.1.
fn ipv4<'a>(
    packet: &'a [u8],
    source_mac: Option<MacAddr>,
    ports: &Ports,
) -> Result<(MagicPackets<'a>, Carrier), Rejection> {
    let header = packet.first_chunk::<20>().ok_or(Rejection::BadHeader)?;
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
        return Err(Rejection::BadHeader);
    }
    if *protocol != UDP {
        return Err(Rejection::NotUdp);
    }
    if u16::from_be_bytes([*fragment_high, *fragment_low]) & 0x1fff != 0 {
        return Err(Rejection::LaterFragment);
    }
    let header_length = usize::from(version_ihl & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    if header_length < header.len() {
        return Err(Rejection::BadHeader);
    }
    let end = total_length.min(packet.len());
    let datagram = packet.get(header_length..end).ok_or(Rejection::BadHeader)?;
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
) -> Result<(MagicPackets<'a>, Carrier), Rejection> {
    let (header, rest) = packet.split_first_chunk::<40>().ok_or(Rejection::BadHeader)?;
    let [version, _, _, _, length_high, length_low, next, _, addresses @ ..] = header;
    if version >> 4 != 6 {
        return Err(Rejection::BadHeader);
    }
    let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    let rest = rest.get(..length.min(rest.len())).ok_or(Rejection::BadHeader)?;
    let datagram = skip_extension_headers(rest, *next)?;
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(Rejection::BadHeader)?;
    let destination = destination.first_chunk::<16>().ok_or(Rejection::BadHeader)?;
    let (path, payload) = udp(datagram, source_mac, Ipv6Addr::from(*source), Ipv6Addr::from(*destination))?;
    Ok((search(payload, ports.contains(path.destination_port))?, Carrier::Udp6(path)))
}

/// Skips the extension headers between the IPv6 header and UDP.
fn skip_extension_headers(mut rest: &[u8], mut next: u8) -> Result<&[u8], Rejection> {
    let mut headers = 0;
    while next != UDP {
        let [following, length, third, fourth] = *rest.first_chunk().ok_or(Rejection::BadHeader)?;
        let skipped = match next {
            // Hop-by-hop options, routing, destination options: the length counts units of 8 octets after the first
            // unit.
            0 | 43 | 60 => (usize::from(length) + 1) * 8,
            // Fragment: always 8 octets.
            44 if u16::from_be_bytes([third, fourth]) & 0xfff8 != 0 => return Err(Rejection::LaterFragment),
            44 => 8,
            // Authentication: the length counts units of 4 octets after the first two units (RFC 4302 section 2.2).
            51 => (usize::from(length) + 2) * 4,
            _ => return Err(Rejection::NotUdp),
        };
        headers += 1;
        if headers > MAX_EXTENSION_HEADERS {
            return Err(Rejection::TooManyExtensionHeaders);
        }
        rest = rest.get(skipped..).ok_or(Rejection::BadHeader)?;
        next = following;
    }
    Ok(rest)
}

/// UDP, RFC 768. The parser ignores the checksum: network cards ignore it when they wake a machine, and a datagram from
/// the same host often does not contain it yet.
fn udp<Address>(
    datagram: &[u8],
    source_mac: Option<MacAddr>,
    source: Address,
    destination: Address,
) -> Result<(UdpPath<Address>, &[u8]), Rejection> {
    let (header, payload) = datagram.split_first_chunk::<8>().ok_or(Rejection::BadHeader)?;
    let [s0, s1, d0, d1, l0, l1, _, _] = *header;
    let length =
        usize::from(u16::from_be_bytes([l0, l1])).checked_sub(header.len()).ok_or(Rejection::BadHeader)?;
    let payload = payload.get(..length.min(payload.len())).ok_or(Rejection::BadHeader)?;
    let path = UdpPath {
        source_mac,
        source,
        source_port: u16::from_be_bytes([s0, s1]),
        destination,
        destination_port: u16::from_be_bytes([d0, d1]),
    };
    Ok((path, payload))
}
