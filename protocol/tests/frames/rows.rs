//! The rows of the tables.

use core::net::Ipv4Addr;

use wakevirt_protocol::frame::{Frame, Ports, Rejection, parse_frame};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{Carrier, MacAddr, MagicPacket, ParsedPacket, Password, UdpPath, VlanId};

use crate::common::*;

/// A port that the configuration adds to the well-known ports.
pub(crate) const CONFIGURED: u16 = 4000;

pub(crate) fn ports() -> Ports {
    Ports::new(vec![0, 7, 9, CONFIGURED])
}

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) link: LinkType,
    /// A tag that the kernel has removed.
    pub(crate) tag: Option<u16>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Option<Result<Vec<ParsedPacket>, Rejection>>,
}

/// The parser's result for this frame; `None` if its link header is invalid.
pub(crate) fn parsed(
    link: LinkType,
    tag: Option<u16>,
    bytes: &[u8],
) -> Option<Result<Vec<ParsedPacket>, Rejection>> {
    let frame = Frame { tag, ..link.strip(bytes)? };
    Some(parse_frame(&frame, &ports()).map(Iterator::collect))
}

pub(crate) fn row(name: impl Into<String>, bytes: Vec<u8>, expected: Result<ParsedPacket, Rejection>) -> Row {
    let expected = expected.map(|packet| vec![packet]);
    Row { name: name.into(), link: LinkType::Ethernet, tag: None, bytes, expected: Some(expected) }
}

/// A row with several magic packets, for these addresses.
pub(crate) fn row_with_packets(
    name: impl Into<String>,
    bytes: Vec<u8>,
    targets: &[[u8; 6]],
    carrier: &Carrier,
) -> Row {
    let packet = |target: &[u8; 6]| {
        let magic = MagicPacket::new(MacAddr::new(*target), None).unwrap();
        ParsedPacket { magic, carrier: carrier.clone(), vlan: None }
    };
    Row {
        expected: Some(Ok(targets.iter().map(packet).collect())),
        ..row(name, bytes, Err(Rejection::NoMagicPacket))
    }
}

pub(crate) fn accepted(carrier: Carrier) -> Result<ParsedPacket, Rejection> {
    Ok(ParsedPacket { magic: MagicPacket::new(MacAddr::new(TARGET), None).unwrap(), carrier, vlan: None })
}

pub(crate) fn with_password(password: &[u8], carrier: Carrier) -> Result<ParsedPacket, Rejection> {
    let password = Some(Password::try_from(password).unwrap());
    let magic = MagicPacket::new(MacAddr::new(TARGET), password).unwrap();
    Ok(ParsedPacket { magic, carrier, vlan: None })
}

pub(crate) fn in_vlan(id: u16, packet: Result<ParsedPacket, Rejection>) -> Result<ParsedPacket, Rejection> {
    packet.map(|packet| ParsedPacket { vlan: Some(VlanId::try_from(id).unwrap()), ..packet })
}

pub(crate) fn raw(ethertype: u16) -> Carrier {
    Carrier::Ethernet { ethertype: Some(ethertype), source: Some(MacAddr::new(SENDER)) }
}

pub(crate) fn v4(port: u16) -> Carrier {
    Carrier::Udp4(UdpPath {
        source_mac: Some(MacAddr::new(SENDER)),
        source: SENDER4,
        source_port: SENDER_PORT,
        destination: Ipv4Addr::BROADCAST,
        destination_port: port,
    })
}

pub(crate) fn v6(port: u16) -> Carrier {
    Carrier::Udp6(UdpPath {
        source_mac: Some(MacAddr::new(SENDER)),
        source: SENDER6,
        source_port: SENDER_PORT,
        destination: ALL_NODES,
        destination_port: port,
    })
}

/// Concatenates bytes.
macro_rules! bytes {
    ($($part:expr),* $(,)?) => {{
        let mut bytes = Vec::<u8>::new();
        $(bytes.extend_from_slice(&$part[..]);)*
        bytes
    }};
}

pub(crate) use bytes;
