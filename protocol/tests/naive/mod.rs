//! A second parser for magic packets. It is slow, follows the description of the format literally, and shares only its
//! result types with the library. The fuzz targets also use it.

#![allow(dead_code, reason = "each program uses only some of the items")]

use std::fmt::Display;

use wakevirt_protocol::magic::MagicPackets;
use wakevirt_protocol::{Carrier, MagicPacket, ParsedPacket, UdpPath};

/// An address, and the password after its copies; empty without a password.
pub(crate) type Magic = ([u8; 6], Vec<u8>);

/// A parsed packet as plain values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) magic: Magic,
    pub(crate) carrier: String,
    pub(crate) vlan: Option<u16>,
}

/// Finds six 0xFF bytes followed by one address sixteen times, anywhere.
pub(crate) fn anywhere(payload: &[u8]) -> Vec<Magic> {
    with_password(payload, targets(payload, 0))
}

/// Like [`anywhere`], but only 0xFF bytes may precede the first packet.
pub(crate) fn at_start(payload: &[u8]) -> Vec<Magic> {
    let first = (0..payload.len())
        .take_while(|offset| payload[..*offset].iter().all(|byte| *byte == 0xff))
        .find(|offset| magic_at(payload, *offset).is_some());
    first.map_or(vec![], |first| with_password(payload, targets(payload, first)))
}

/// The address of each magic packet from this offset on, and the end of its copies.
fn targets(payload: &[u8], mut offset: usize) -> Vec<([u8; 6], usize)> {
    let mut targets = vec![];
    while offset < payload.len() {
        match magic_at(payload, offset) {
            Some((address, end)) => {
                targets.push((address, end));
                offset = end;
            }
            None => offset += 1,
        }
    }
    targets
}

fn magic_at(payload: &[u8], offset: usize) -> Option<([u8; 6], usize)> {
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
    Some((address.try_into().ok()?, payload.len() - bytes.0.len()))
}

/// Adds the password, which only a single packet can have, and only if the rest is too short for another packet.
fn with_password(payload: &[u8], targets: Vec<([u8; 6], usize)>) -> Vec<Magic> {
    if let [(address, end)] = targets[..] {
        let rest = &payload[end..];
        let is_copy = rest.len() < 6 && rest == &address[..rest.len()];
        let password = match rest.len() {
            _ if is_copy => 0,
            4 | 5 => 4,
            6..102 => 6,
            _ => 0,
        };
        return vec![(address, rest[..password].to_vec())];
    }
    targets.into_iter().map(|(address, _)| (address, vec![])).collect()
}

/// Parses the first 2,048 bytes of a frame.
pub(crate) fn frame(
    source: Option<String>,
    tag: Option<u16>,
    ethertype: u16,
    payload: &[u8],
    full_search: &[u16],
) -> Vec<Found> {
    let mut bytes = Bytes(payload);
    bytes.truncate(2048);
    let mut found = whole_frame(source, tag, ethertype, bytes.0, full_search).unwrap_or_default();
    if bytes.0.len() == 2048 {
        found.iter_mut().for_each(|found| found.magic.1.clear());
    }
    found
}

/// Parses a frame without its link header. A tag may already have been removed.
fn whole_frame(
    source: Option<String>,
    tag: Option<u16>,
    ethertype: u16,
    payload: &[u8],
    full_search: &[u16],
) -> Option<Vec<Found>> {
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
    let (packets, carrier) = match ethertype {
        0x0800 => ipv4(bytes, full_search)?,
        0x86dd => ipv6(bytes, full_search)?,
        0x0842 => (anywhere(bytes.0), "ethernet 0842".to_owned()),
        0..0x0600 => (at_start(bytes.0), "ethernet".to_owned()),
        other => (at_start(bytes.0), format!("ethernet {other:04x}")),
    };
    let carrier = sent_by(carrier, source);
    Some(packets.into_iter().map(|magic| Found { magic, carrier: carrier.clone(), vlan }).collect())
}

fn ipv4(packet: Bytes<'_>, full_search: &[u16]) -> Option<(Vec<Magic>, String)> {
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
    bytes.truncate(total);
    bytes.take(header)?;
    let (packets, [from, to]) = udp(bytes, full_search)?;
    Some((packets, format!("udp4 {source:?} {from} > {destination:?} {to}")))
}

fn ipv6(packet: Bytes<'_>, full_search: &[u16]) -> Option<(Vec<Magic>, String)> {
    let mut bytes = packet;
    if bytes.take(4)?[0] / 16 != 6 {
        return None;
    }
    let length = usize::from(bytes.number()?);
    let mut next = bytes.take(1)?[0];
    bytes.take(1)?;
    let source: [u8; 16] = bytes.take(16)?.try_into().ok()?;
    let destination: [u8; 16] = bytes.take(16)?.try_into().ok()?;
    bytes.truncate(length);
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
    let (packets, [from, to]) = udp(bytes, full_search)?;
    Some((packets, format!("udp6 {source:?} {from} > {destination:?} {to}")))
}

fn udp(mut bytes: Bytes<'_>, full_search: &[u16]) -> Option<(Vec<Magic>, [u16; 2])> {
    let (from, to, length) = (bytes.number()?, bytes.number()?, bytes.number()?);
    bytes.take(2)?;
    bytes.truncate(usize::from(length).checked_sub(8)?);
    let packets = if full_search.contains(&to) { anywhere(bytes.0) } else { at_start(bytes.0) };
    Some((packets, [from, to]))
}

fn sent_by(carrier: String, source: Option<String>) -> String {
    format!("{carrier} by {}", source.as_deref().unwrap_or("unknown"))
}

/// The library's magic packets as plain values.
pub(crate) fn magics(packets: MagicPackets<'_>) -> Vec<Magic> {
    packets.map(|magic| magic_of(&magic)).collect()
}

fn magic_of(magic: &MagicPacket) -> Magic {
    (magic.target().octets(), magic.password().map_or(vec![], |password| password.as_bytes().to_vec()))
}

impl From<ParsedPacket> for Found {
    fn from(packet: ParsedPacket) -> Self {
        let (carrier, source) = match &packet.carrier {
            Carrier::Ethernet { ethertype: None, source } => ("ethernet".to_owned(), source),
            Carrier::Ethernet { ethertype: Some(number), source } => {
                (format!("ethernet {number:04x}"), source)
            }
            Carrier::Udp4(path) => {
                (path_text("udp4", path, path.source.octets(), path.destination.octets()), &path.source_mac)
            }
            Carrier::Udp6(path) => {
                (path_text("udp6", path, path.source.octets(), path.destination.octets()), &path.source_mac)
            }
        };
        Self {
            magic: magic_of(&packet.magic),
            carrier: sent_by(carrier, source.map(|mac| mac.to_string())),
            vlan: packet.vlan.map(|vlan| vlan.get()),
        }
    }
}

fn path_text<Address, const N: usize>(
    name: impl Display,
    path: &UdpPath<Address>,
    source: [u8; N],
    destination: [u8; N],
) -> String {
    format!("{name} {source:?} {} > {destination:?} {}", path.source_port, path.destination_port)
}

/// Reads bytes from the front of a slice.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The next bytes.
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        if self.0.len() < count {
            return None;
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(taken)
    }

    /// The next two bytes, as a number.
    fn number(&mut self) -> Option<u16> {
        let pair = self.take(2)?;
        Some(u16::from(pair[0]) * 256 + u16::from(pair[1]))
    }

    /// Discards all bytes after this length.
    fn truncate(&mut self, length: usize) {
        self.0 = &self.0[..length.min(self.0.len())];
    }
}
