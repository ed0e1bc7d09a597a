//! Judging what a socket delivered.

use std::net::{IpAddr, SocketAddr};

use wakevirt_protocol::frame::{ETHERTYPES_TAG, Frame, Judged, Ports, Refusal, judge, judge_datagram};
use wakevirt_protocol::link::sender;
use wakevirt_protocol::{Carrier, Sighting, UdpPath};

use crate::ffi::{Arrival, Envelope, Sender};

/// The magic packets that a socket delivered at once: at least one, in their order.
#[derive(Debug)]
pub struct Sightings<'a> {
    judged: Judged<'a>,
    interface: u32,
}

impl Iterator for Sightings<'_> {
    type Item = Sighting;

    fn next(&mut self) -> Option<Sighting> {
        Some(Sighting { heard: self.judged.next()?, interface: self.interface })
    }
}

/// Judges what a packet socket delivered.
///
/// # Errors
/// [`Refusal`] says why it holds no magic packet that counts.
pub fn frame<'a>(envelope: &Envelope, payload: &'a [u8], ports: &Ports) -> Result<Sightings<'a>, Refusal> {
    let Some(Sender::Link { protocol, interface, kind, address_length, address, .. }) = envelope.sender
    else {
        return Err(Refusal::BadHeader);
    };
    let source = sender(kind, u16::from(address_length), address);
    let frame = Frame { protocol, tag: envelope.tag, source, payload };
    // Of a frame that had no tag, the kernel has taken none off: what looks like a second one is the sender's.
    if frame.tag.is_some() && has_tag_in_front(&frame) {
        let tagged = Frame { protocol: ETHERTYPES_TAG[0], ..frame };
        match judge(&tagged, ports) {
            // It only looked like one.
            Err(refusal) if refusal != Refusal::TooManyTags => {}
            judged => return Ok(Sightings { judged: judged?, interface }),
        }
    }
    Ok(Sightings { judged: judge(&frame, ports)?, interface })
}

/// Whether a tag seems to lie in front of the protocol that the kernel named.
///
/// The kernel takes one tag off. Of a frame with two, a socket without link headers gets the second
/// one at the beginning of the payload, and yet is told what lies under it, since Linux 6.11 and the
/// stable releases of that time (`vlan_get_protocol_dgram` in net/packet/af_packet.c); older
/// kernels name the tag.
fn has_tag_in_front(frame: &Frame<'_>) -> bool {
    let mut rest = frame.payload;
    while let Some(([_, _, high, low], behind)) = rest.split_first_chunk::<4>() {
        let protocol = u16::from_be_bytes([*high, *low]);
        if !ETHERTYPES_TAG.contains(&protocol) {
            return protocol == frame.protocol;
        }
        rest = behind;
    }
    false
}

/// Judges what a UDP socket delivered that is bound to this port.
///
/// # Errors
/// [`Refusal`] says why it holds no magic packet that counts.
pub fn datagram<'a>(
    envelope: &Envelope,
    payload: &'a [u8],
    port: u16,
    ports: &Ports,
) -> Result<Sightings<'a>, Refusal> {
    let Some(Sender::Inet(source)) = &envelope.sender else { return Err(Refusal::BadHeader) };
    let (interface, destination) = match envelope.arrival {
        Some(Arrival::V4 { interface, destination }) => (interface, IpAddr::V4(destination)),
        Some(Arrival::V6 { interface, destination }) => (interface, IpAddr::V6(destination)),
        None => return Err(Refusal::BadHeader),
    };
    let packets = judge_datagram(payload, port, ports)?;
    let carrier = carrier(*source, destination, port).ok_or(Refusal::BadHeader)?;
    Ok(Sightings { judged: Judged { packets, carrier, vlan: None }, interface })
}

/// What carried a datagram. A socket for both versions tells IPv4 addresses as mapped ones (ipv6(7)).
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
