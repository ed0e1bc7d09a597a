//! Tables of accepted and rejected frames, with a row for each rule and each sender.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod ethernet;
mod ip;
mod links;
mod packets;
mod rows;
mod seeds;

use std::collections::BTreeSet;

use wakevirt_protocol::frame::Rejection::{NoMagicPacket, NotAtStart};
use wakevirt_protocol::frame::{Ports, SEARCHED, parse_datagram};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{MacAddr, MagicPacket};

use common::{TARGET, magic};
use links::link_types;
use rows::*;

fn table() -> Vec<Row> {
    let groups = [
        ("sender", packets::senders()),
        ("format", packets::formats()),
        ("EtherType or tag", ethernet::ethertypes_and_tags()),
        ("UDP", ip::udp()),
        ("IPv4", ip::ipv4()),
        ("IPv6", ip::ipv6()),
        ("link", links::links()),
        ("merged", packets::merged()),
    ];
    let named = |(group, rows): (&str, Vec<Row>)| {
        rows.into_iter()
            .map(move |row| Row { name: format!("{group} {:?}: {}", row.link, row.name), ..row })
            .collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(named).collect()
}

#[test]
fn parses_each_frame_as_the_table_expects() {
    let table = table();
    let names: BTreeSet<_> = table.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), table.len(), "row names must be unique");
    let wrong: Vec<_> = table
        .iter()
        .filter_map(|row| {
            let parsed = parsed(row.link, row.tag, &row.bytes);
            (parsed != row.expected)
                .then(|| format!("{}\n  expected {:?}\n  parsed   {parsed:?}", row.name, row.expected))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

/// A capture can be truncated anywhere. A packet is valid as soon as its sixteenth copy is complete.
#[test]
fn accepts_a_truncated_frame_once_the_last_copy_is_complete() {
    let needle = magic();
    for row in table().iter().filter(|row| matches!(row.expected, Some(Ok(_))) && row.bytes.len() < SEARCHED)
    {
        let begin = row.bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        for length in 0..=row.bytes.len() {
            let parsed = parsed(row.link, row.tag, &row.bytes[..length]);
            let accepted =
                matches!(&parsed, Some(Ok(packets)) if packets[0].magic.target() == MacAddr::new(TARGET));
            assert_eq!(accepted, length >= begin + needle.len(), "{}: {length} bytes: {parsed:?}", row.name);
        }
    }
}

#[test]
fn never_panics_with_any_link_header() {
    for row in table() {
        for link in link_types() {
            for length in 0..=row.bytes.len() {
                let _ = parsed(link, row.tag, &row.bytes[..length]);
            }
        }
    }
}

#[test]
fn parses_a_datagram_from_a_socket_like_a_frame() {
    let late = bytes![[0], magic()];
    let found = MagicPacket::new(MacAddr::new(TARGET), None);
    for (port, payload, expected) in [
        (9, magic(), Ok(found.clone())),
        (9, late.clone(), Ok(found.clone())),
        (CONFIGURED, late.clone(), Ok(found.clone())),
        (40000, magic(), Ok(found)),
        (40000, late, Err(NotAtStart)),
        (9, vec![], Err(NoMagicPacket)),
    ] {
        let parsed = parse_datagram(&payload, port, &ports()).map(|mut packets| packets.next());
        assert_eq!(parsed, expected, "to {port}");
    }
}

#[test]
fn searches_a_datagram_from_a_socket_as_far_as_a_frame() {
    let many = magic().repeat(30);
    let found = |length| parse_datagram(&many[..length], 9, &ports()).unwrap().count();
    assert_eq!([found(102), found(2039), found(2040), found(3060)], [1, 19, 20, 20]);
    // Data that reaches the limit may be truncated, so its password is ignored.
    let late = bytes![vec![0x11; SEARCHED - 108], magic(), b"secret", [0; 100]];
    let password = |length| {
        let mut packets = parse_datagram(&late[..length], 9, &ports()).unwrap();
        packets.next().unwrap().password().is_some()
    };
    assert_eq!([password(SEARCHED - 1), password(SEARCHED), password(SEARCHED + 100)], [true, false, false]);
}

#[test]
fn searches_the_well_known_ports_in_full() {
    assert_eq!(Ports::default().as_slice(), [0, 7, 9]);
    assert_eq!(Ports::new(vec![9, 40000, 7, 9]).as_slice(), [7, 9, 40000]);
}

#[test]
fn maps_link_type_numbers() {
    for (number, link) in [
        (0, Some(LinkType::Null)),
        (1, Some(LinkType::Ethernet)),
        (12, Some(LinkType::Raw)),
        (14, Some(LinkType::Raw)),
        (101, Some(LinkType::Raw)),
        (108, Some(LinkType::Loop)),
        (113, Some(LinkType::LinuxSll)),
        (228, Some(LinkType::Raw)),
        (229, Some(LinkType::Raw)),
        (276, Some(LinkType::LinuxSll2)),
        (105, None),
        (-1, None),
    ] {
        assert_eq!(LinkType::from_number(number), link, "{number}");
    }
}
