//! Parses the packets that a socket delivers.

use std::net::{IpAddr, SocketAddr};

use wakevirt_protocol::frame::{
    ETHERTYPES_TAG, Frame, ParsedPackets, Ports, Rejection, parse_datagram, parse_frame,
};
use wakevirt_protocol::link::sender;
use wakevirt_protocol::{CapturedPacket, Carrier, UdpPath};

use crate::ffi::{Arrival, Envelope, Sender};

/// The magic packets in one delivered frame or datagram: at least one, in order.
#[derive(Debug)]
pub struct CapturedPackets<'a> {
    parsed: ParsedPackets<'a>,
    interface: u32,
}

impl Iterator for CapturedPackets<'_> {
    type Item = CapturedPacket;

    fn next(&mut self) -> Option<CapturedPacket> {
        Some(CapturedPacket { packet: self.parsed.next()?, interface: self.interface })
    }
}

/// Parses a frame from a packet socket.
///
/// # Errors
/// [`Rejection`] if it contains no valid magic packet.
pub fn frame<'a>(
    envelope: &Envelope,
    payload: &'a [u8],
    ports: &Ports,
) -> Result<CapturedPackets<'a>, Rejection> {
    let Some(Sender::Link { protocol, interface, kind, address_length, address, .. }) = envelope.sender
    else {
        return Err(Rejection::BadHeader);
    };
    let source = sender(kind, u16::from(address_length), address);
    let frame = Frame { protocol, tag: envelope.tag, source, payload };
    // If the kernel removed no tag, the frame had none: what looks like a tag is part of the payload.
    if frame.tag.is_some() && starts_with_tag(&frame) {
        let tagged = Frame { protocol: ETHERTYPES_TAG[0], ..frame };
        match parse_frame(&tagged, ports) {
            // The bytes were not a tag.
            Err(rejection) if rejection != Rejection::TooManyTags => {}
            parsed => return Ok(CapturedPackets { parsed: parsed?, interface }),
        }
    }
    Ok(CapturedPackets { parsed: parse_frame(&frame, ports)?, interface })
}

/// Whether the payload appears to start with tags that are followed by the protocol that the kernel reports.
///
/// The kernel removes one tag. If a frame has two tags, a socket without link headers receives the second one at the
/// start of the payload. Linux 6.11, the stable releases of that time and later kernels report the protocol after that
/// tag (`vlan_get_protocol_dgram` in net/packet/af_packet.c). Older kernels report the tag's EtherType.
fn starts_with_tag(frame: &Frame<'_>) -> bool {
    let mut rest = frame.payload;
    while let Some(([_, _, high, low], after)) = rest.split_first_chunk::<4>() {
        let protocol = u16::from_be_bytes([*high, *low]);
        if !ETHERTYPES_TAG.contains(&protocol) {
            return protocol == frame.protocol;
        }
        rest = after;
    }
    false
}

/// Parses a datagram from a UDP socket that is bound to `port`.
///
/// # Errors
/// [`Rejection`] if it contains no valid magic packet.
pub fn datagram<'a>(
    envelope: &Envelope,
    payload: &'a [u8],
    port: u16,
    ports: &Ports,
) -> Result<CapturedPackets<'a>, Rejection> {
    let Some(Sender::Inet(source)) = &envelope.sender else { return Err(Rejection::BadHeader) };
    let (interface, destination) = match envelope.arrival {
        Some(Arrival::V4 { interface, destination }) => (interface, IpAddr::V4(destination)),
        Some(Arrival::V6 { interface, destination }) => (interface, IpAddr::V6(destination)),
        None => return Err(Rejection::BadHeader),
    };
    let packets = parse_datagram(payload, port, ports)?;
    let carrier = carrier(*source, destination, port).ok_or(Rejection::BadHeader)?;
    Ok(CapturedPackets { parsed: ParsedPackets { packets, carrier, vlan: None }, interface })
}

/// The carrier of a datagram. A dual-stack socket reports IPv4-mapped addresses (ipv6(7)).
fn carrier(source: SocketAddr, destination: IpAddr, port: u16) -> Option<Carrier> {
    match (source.ip().to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(Carrier::Udp4(UdpPath {
            source_mac: None,
            source: from,
            source_port: source.port(),
            destination: to,
            destination_port: port,
        })),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(Carrier::Udp6(UdpPath {
            source_mac: None,
            source: from,
            source_port: source.port(),
            destination: to,
            destination_port: port,
        })),
        _ => None,
    }
}
