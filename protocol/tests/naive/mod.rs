//! What counts as a magic packet, said a second time: slowly, in the order of the design's prose,
//! and with nothing of the library but the types that it is compared with. The fuzz targets use it too.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::fmt::Display;

use wakevirt_protocol::{Carrier, Heard, MagicPacket, UdpPath};

/// An address, and the password behind its copies, or nothing.
pub(crate) type Magic = ([u8; 6], Vec<u8>);

/// What was heard, in plain values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) magic: Magic,
    pub(crate) carrier: String,
    pub(crate) vlan: Option<u16>,
}

/// Six bytes FF, then one address sixteen times, anywhere.
pub(crate) fn anywhere(payload: &[u8]) -> Option<Magic> {
    (0..payload.len()).find_map(|offset| magic_at(payload, offset))
}

/// The same, where nothing but FF stands in front of it.
pub(crate) fn at_start(payload: &[u8]) -> Option<Magic> {
    (0..payload.len())
        .take_while(|offset| payload[..*offset].iter().all(|byte| *byte == 0xff))
        .find_map(|offset| magic_at(payload, offset))
}

fn magic_at(payload: &[u8], offset: usize) -> Option<Magic> {
    let mut bytes = Bytes(&payload[offset..]);
    if bytes.take(6)? != [0xff; 6] {
        return None;
    }
    let address = bytes.take(6)?;
    for _ in 1..16 {
        if bytes.take(6)? != address {
            return None;
        }
    }
    if address[0] % 2 == 1 || address.iter().all(|byte| *byte == 0) {
        return None;
    }
    while bytes.0.len() >= 6 && bytes.0[..6] == *address {
        bytes.take(6);
    }
    let left = bytes.0;
    let goes_on = left.len() < 6 && left == &address[..left.len()];
    let password = match left.len() {
        _ if goes_on => 0,
        0..=3 => 0,
        4 | 5 => 4,
        _ => 6,
    };
    Some((address.try_into().ok()?, left[..password].to_vec()))
}

/// A frame without its link header, which may have lost a tag already.
pub(crate) fn frame(
    source: Option<String>,
    tag: Option<u16>,
    ethertype: u16,
    payload: &[u8],
    full_search: &[u16],
) -> Option<Found> {
    let mut controls: Vec<u16> = tag.into_iter().collect();
    let mut ethertype = ethertype;
    let mut bytes = Bytes(payload);
    while [0x8100, 0x88a8, 0x9100].contains(&ethertype) {
        controls.push(bytes.number()?);
        ethertype = bytes.number()?;
    }
    if controls.len() > 2 {
        return None;
    }
    let mut vlans = controls.iter().map(|control| control % 4096);
    if vlans.clone().any(|id| id == 4095) {
        return None;
    }
    let vlan = vlans.find(|id| *id != 0);
    let (magic, carrier) = match ethertype {
        0x0800 => ipv4(bytes, full_search)?,
        0x86dd => ipv6(bytes, full_search)?,
        0x0842 => (anywhere(bytes.0)?, "ethernet 0842".to_owned()),
        0..0x0600 => (at_start(bytes.0)?, "ethernet".to_owned()),
        other => (at_start(bytes.0)?, format!("ethernet {other:04x}")),
    };
    Some(Found { magic, carrier: sent_by(carrier, source), vlan })
}

fn ipv4(packet: Bytes<'_>, full_search: &[u16]) -> Option<(Magic, String)> {
    let mut bytes = packet;
    let first = bytes.take(1)?[0];
    bytes.take(1)?;
    let total = usize::from(bytes.number()?);
    bytes.take(2)?;
    let flags_and_offset = bytes.number()?;
    bytes.take(1)?;
    let protocol = bytes.take(1)?[0];
    bytes.take(2)?;
    let source: [u8; 4] = bytes.take(4)?.try_into().ok()?;
    let destination: [u8; 4] = bytes.take(4)?.try_into().ok()?;
    let header = usize::from(first % 16) * 4;
    if first / 16 != 4 || header < 20 || total < header {
        return None;
    }
    if protocol != 17 || flags_and_offset % 8192 != 0 {
        return None;
    }
    let mut bytes = packet;
    bytes.keep(total);
    bytes.take(header)?;
    let (magic, [from, to]) = udp(bytes, full_search)?;
    Some((magic, format!("udp4 {source:?} {from} > {destination:?} {to}")))
}

fn ipv6(packet: Bytes<'_>, full_search: &[u16]) -> Option<(Magic, String)> {
    let mut bytes = packet;
    if bytes.take(4)?[0] / 16 != 6 {
        return None;
    }
    let length = usize::from(bytes.number()?);
    let mut next = bytes.take(1)?[0];
    bytes.take(1)?;
    let source: [u8; 16] = bytes.take(16)?.try_into().ok()?;
    let destination: [u8; 16] = bytes.take(16)?.try_into().ok()?;
    bytes.keep(length);
    let mut extensions = 0;
    while next != 17 {
        extensions += 1;
        let header = bytes.0;
        let length = match next {
            0 | 43 | 60 => 8 + 8 * usize::from(*header.get(1)?),
            44 => 8,
            51 => 8 + 4 * usize::from(*header.get(1)?),
            _ => return None,
        };
        let header = bytes.take(length)?;
        let offset = u16::from_be_bytes([header[2], header[3]]) / 8;
        if next == 44 && offset != 0 {
            return None;
        }
        next = header[0];
    }
    if extensions > 4 {
        return None;
    }
    let (magic, [from, to]) = udp(bytes, full_search)?;
    Some((magic, format!("udp6 {source:?} {from} > {destination:?} {to}")))
}

fn udp(mut bytes: Bytes<'_>, full_search: &[u16]) -> Option<(Magic, [u16; 2])> {
    let (from, to, length) = (bytes.number()?, bytes.number()?, bytes.number()?);
    bytes.take(2)?;
    bytes.keep(usize::from(length).checked_sub(8)?);
    let magic = if full_search.contains(&to) { anywhere(bytes.0)? } else { at_start(bytes.0)? };
    Some((magic, [from, to]))
}

fn sent_by(carrier: String, source: Option<String>) -> String {
    format!("{carrier} by {}", source.as_deref().unwrap_or("nobody"))
}

/// What the library's magic packet says.
pub(crate) fn said(magic: &MagicPacket) -> Magic {
    (magic.target().octets(), magic.password().map_or(vec![], |password| password.as_bytes().to_vec()))
}

impl From<&Heard> for Found {
    fn from(heard: &Heard) -> Self {
        let (carrier, source) = match &heard.carrier {
            Carrier::Ethernet { ethertype: None, source } => ("ethernet".to_owned(), source),
            Carrier::Ethernet { ethertype: Some(number), source } => {
                (format!("ethernet {number:04x}"), source)
            }
            Carrier::Udp4(path) => {
                (way("udp4", path, path.source.octets(), path.destination.octets()), &path.source_mac)
            }
            Carrier::Udp6(path) => {
                (way("udp6", path, path.source.octets(), path.destination.octets()), &path.source_mac)
            }
        };
        Self {
            magic: said(&heard.magic),
            carrier: sent_by(carrier, source.map(|mac| mac.to_string())),
            vlan: heard.vlan.map(|vlan| vlan.get()),
        }
    }
}

fn way<Address, const N: usize>(
    name: impl Display,
    path: &UdpPath<Address>,
    source: [u8; N],
    destination: [u8; N],
) -> String {
    format!("{name} {source:?} {} > {destination:?} {}", path.source_port, path.destination_port)
}

/// What is left of some bytes, read from the front.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The next so many bytes.
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        if self.0.len() < count {
            return None;
        }
        let (taken, left) = self.0.split_at(count);
        self.0 = left;
        Some(taken)
    }

    /// The next two bytes, as a number.
    fn number(&mut self) -> Option<u16> {
        let pair = self.take(2)?;
        Some(u16::from(pair[0]) * 256 + u16::from(pair[1]))
    }

    /// Forgets what is beyond this length.
    fn keep(&mut self, length: usize) {
        self.0 = &self.0[..length.min(self.0.len())];
    }
}
