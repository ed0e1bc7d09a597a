//! Builds Ethernet frames and IP packets, including some that no tool can send.

use std::net::{Ipv4Addr, Ipv6Addr};

use wakevirt_protocol::MacAddr;

/// The Ethernet broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The EtherType of Wake-on-LAN.
pub const WAKE_ON_LAN: u16 = 0x0842;

/// A magic packet: six 0xFF bytes, the MAC address sixteen times, and the SecureOn password, which can be empty.
#[must_use]
pub fn magic(mac: &str, password: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &bytes_of(mac).repeat(16), password].concat()
}

/// Parses a MAC address.
///
/// # Panics
/// If it is not a MAC address.
#[must_use]
pub fn bytes_of(mac: &str) -> [u8; 6] {
    mac.parse::<MacAddr>().expect("a MAC address").octets()
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Adds a VLAN tag to the frame, before its EtherType and its other tags. `tpid` is 0x8100 (IEEE 802.1Q) or 0x88a8
/// (802.1ad).
#[must_use]
pub fn tagged(frame: &[u8], tpid: u16, vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &tpid.to_be_bytes(), &vlan.to_be_bytes(), rest].concat()
}

/// An IPv4 packet (RFC 791) with a UDP datagram from port 40000, without a UDP checksum.
#[must_use]
pub fn udp4(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = udp(port, payload, 0);
    let length = be(datagram.len() + 20);
    let mut header = [&[0x45, 0][..], &length, &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
    header.extend(source.octets());
    header.extend(destination.octets());
    let checksum = checksum(&header).to_be_bytes();
    header.splice(10..12, checksum);
    [header, datagram].concat()
}

/// An IPv6 packet (RFC 8200) with a UDP datagram from port 40000, with a correct checksum.
#[must_use]
pub fn udp6(source: Ipv6Addr, destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = be(payload.len() + 8);
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, 0], &length, &[0, 0, 0, 17]].concat();
    let sum = checksum(&[pseudo, udp(port, payload, 0)].concat());
    let header = [&[0x60, 0, 0, 0][..], &length, &[17, 64], &source.octets(), &destination.octets()].concat();
    [header, udp(port, payload, sum)].concat()
}

fn udp(port: u16, payload: &[u8], checksum: u16) -> Vec<u8> {
    let header = [40000_u16.to_be_bytes(), port.to_be_bytes(), be(payload.len() + 8), checksum.to_be_bytes()];
    [header.as_flattened(), payload].concat()
}

fn be(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("shorter than 64 KiB").to_be_bytes()
}

/// The internet checksum: RFC 1071. If the number of bytes is odd, the last byte is padded with a zero byte.
fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let last = odd.first().map_or(0, |byte| u32::from(*byte) << 8);
    let sum = pairs.iter().fold(last, |sum, pair| sum + u32::from(u16::from_be_bytes(*pair)));
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_the_checksum_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn checksum_of_a_header_with_its_checksum_is_zero() {
        let packet = udp4(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, 9, b"hello");
        assert_eq!(checksum(&packet[..20]), 0);
    }

    #[test]
    fn inserts_tags_before_the_ethertype() {
        let frame = ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, b"payload");
        let twice = tagged(&tagged(&frame, 0x8100, 7), 0x88a8, 5);
        assert_eq!(twice[12..22], [0x88, 0xa8, 0, 5, 0x81, 0, 0, 7, 8, 0x42]);
    }
}
