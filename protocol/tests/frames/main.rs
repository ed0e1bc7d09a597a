//! Which frames are accepted, and why the others are refused: one row for each rule and each sender.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may stop where it stands")]

#[path = "../common/mod.rs"]
mod common;
mod ethernet;
mod ip;
mod links;
mod packets;
mod rows;
mod seeds;

use std::collections::BTreeSet;

use wakevirt_protocol::frame::Refusal::{NoMagicPacket, NotAtStart};
use wakevirt_protocol::frame::{Ports, SEARCHED, parse_datagram};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{MacAddr, MagicPacket};

use common::{TARGET, magic};
use links::kinds_of_link;
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
fn is_judged_as_the_table_says() {
    let table = table();
    let names: BTreeSet<_> = table.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), table.len(), "each row has a name of its own");
    let wrong: Vec<_> = table
        .iter()
        .filter_map(|row| {
            let judged = judged(row.link, row.tag, &row.bytes);
            (judged != row.expected)
                .then(|| format!("{}\n  expected {:?}\n  judged   {judged:?}", row.name, row.expected))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

/// What is captured may end anywhere. A packet counts as soon as its sixteenth copy is there.
#[test]
fn is_accepted_when_the_last_copy_is_there_and_not_before() {
    let needle = magic();
    for row in table().iter().filter(|row| matches!(row.expected, Some(Ok(_))) && row.bytes.len() < SEARCHED)
    {
        let begin = row.bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        for length in 0..=row.bytes.len() {
            let judged = judged(row.link, row.tag, &row.bytes[..length]);
            let accepted =
                matches!(&judged, Some(Ok(heard)) if heard[0].magic.target() == MacAddr::new(TARGET));
            assert_eq!(accepted, length >= begin + needle.len(), "{}: {length} bytes: {judged:?}", row.name);
        }
    }
}

#[test]
fn is_judged_without_a_panic_under_every_kind_of_link_header() {
    for row in table() {
        for link in kinds_of_link() {
            for length in 0..=row.bytes.len() {
                let _ = judged(link, row.tag, &row.bytes[..length]);
            }
        }
    }
}

#[test]
fn is_judged_alike_when_a_socket_delivers_the_datagram() {
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
        let judged = parse_datagram(&payload, port, &ports()).map(|mut packets| packets.next());
        assert_eq!(judged, expected, "to {port}");
    }
}

#[test]
fn is_searched_as_far_when_a_socket_delivers_the_datagram() {
    let many = magic().repeat(30);
    let found = |length| parse_datagram(&many[..length], 9, &ports()).unwrap().count();
    assert_eq!([found(102), found(2039), found(2040), found(3060)], [1, 19, 20, 20]);
    // What reaches the limit may be cut off, and then has no password.
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
fn knows_the_numbers_of_the_links() {
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
