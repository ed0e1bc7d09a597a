//! Rows: EtherTypes and tags.

use wakevirt_protocol::frame::Rejection::{BadHeader, NotAtStart, TooManyTags};
use wakevirt_protocol::{Carrier, MacAddr};

use crate::common::*;
use crate::rows::*;

/// EtherTypes and tags.
pub(crate) fn ethertypes_and_tags() -> Vec<Row> {
    [ethertypes(), tags(), stacked_tags(), removed_tags()].concat()
}

fn length() -> Carrier {
    Carrier::Ethernet { ethertype: None, source: Some(MacAddr::new(SENDER)) }
}

fn ipv4() -> Vec<u8> {
    Ipv4::default().wrap(&Udp::to(9).wrap(&magic()))
}

fn ethertypes() -> Vec<Row> {
    let late = bytes![[0], magic()];
    vec![
        row("a different EtherType", ethernet(0x88b5, &magic()), accepted(raw(0x88b5))),
        row("a different EtherType, not at the start", ethernet(0x88b5, &late), Err(NotAtStart)),
        row("the smallest EtherType", ethernet(0x0600, &magic()), accepted(raw(0x0600))),
        row("ARP", ethernet(0x0806, &bytes![[0, 1, 8, 0, 6, 4, 0, 1], magic()]), Err(NotAtStart)),
        row("PPPoE", ethernet(0x8864, &bytes![[0x11, 0, 0, 1, 0, 104, 0, 0x57], magic()]), Err(NotAtStart)),
        row("a length (802.3)", ethernet(102, &magic()), accepted(length())),
        row("a length that is too short", ethernet(50, &magic()), accepted(length())),
        row("a length, and LLC", ethernet(105, &bytes![[0x42, 0x42, 3], magic()]), Err(NotAtStart)),
        row(
            "a length, and SNAP",
            ethernet(110, &bytes![[0xaa, 0xaa, 3, 0, 0, 0, 8, 0x42], magic()]),
            Err(NotAtStart),
        ),
    ]
}

/// Frames with one tag.
fn tags() -> Vec<Row> {
    let late = bytes![[0], magic()];
    let ip6 = Ipv6::default().wrap(&Udp::to(9).wrap(&magic()));
    vec![
        row("802.1Q", tagged(&[(0x8100, 5)], 0x0842, &magic()), in_vlan(5, accepted(raw(0x0842)))),
        row(
            "802.1Q, not at the start",
            tagged(&[(0x8100, 5)], 0x0842, &late),
            in_vlan(5, accepted(raw(0x0842))),
        ),
        row("802.1ad alone", tagged(&[(0x88a8, 6)], 0x0842, &magic()), in_vlan(6, accepted(raw(0x0842)))),
        row("a 0x9100 tag", tagged(&[(0x9100, 7)], 0x0842, &magic()), in_vlan(7, accepted(raw(0x0842)))),
        row(
            "a tag with a priority",
            tagged(&[(0x8100, 0xf005)], 0x0842, &magic()),
            in_vlan(5, accepted(raw(0x0842))),
        ),
        row(
            "the highest VLAN",
            tagged(&[(0x8100, 4094)], 0x0842, &magic()),
            in_vlan(4094, accepted(raw(0x0842))),
        ),
        row("a priority tag", tagged(&[(0x8100, 0xe000)], 0x0842, &magic()), accepted(raw(0x0842))),
        row("the reserved VLAN", tagged(&[(0x8100, 0x0fff)], 0x0842, &magic()), Err(BadHeader)),
        row("UDP in 802.1Q", tagged(&[(0x8100, 5)], 0x0800, &ipv4()), in_vlan(5, accepted(v4(9)))),
        row("UDP over IPv6 in 802.1Q", tagged(&[(0x8100, 5)], 0x86dd, &ip6), in_vlan(5, accepted(v6(9)))),
        row("a length in 802.1Q", tagged(&[(0x8100, 5)], 102, &magic()), in_vlan(5, accepted(length()))),
        row(
            "a different EtherType in 802.1Q, not at the start",
            tagged(&[(0x8100, 5)], 0x88b5, &late),
            Err(NotAtStart),
        ),
        row("a truncated tag", ethernet(0x8100, &[0, 5, 8]), Err(BadHeader)),
        row("the stream instead of a tag", ethernet(0x8100, &magic()), Err(BadHeader)),
    ]
}

/// Frames with several tags.
fn stacked_tags() -> Vec<Row> {
    vec![
        row("two tags", tagged(&[(0x88a8, 8), (0x8100, 5)], 0x0800, &ipv4()), in_vlan(8, accepted(v4(9)))),
        row(
            "two 802.1Q tags",
            tagged(&[(0x8100, 8), (0x8100, 5)], 0x0842, &magic()),
            in_vlan(8, accepted(raw(0x0842))),
        ),
        row(
            "a priority tag, and a VLAN",
            tagged(&[(0x8100, 0xe000), (0x8100, 5)], 0x0842, &magic()),
            in_vlan(5, accepted(raw(0x0842))),
        ),
        row(
            "three tags",
            tagged(&[(0x88a8, 8), (0x8100, 5), (0x8100, 6)], 0x0842, &magic()),
            Err(TooManyTags),
        ),
    ]
}

/// Frames from which the kernel removed a tag.
fn removed_tags() -> Vec<Row> {
    let rows = [
        ("a removed tag", 5, ethernet(0x0842, &magic()), in_vlan(5, accepted(raw(0x0842)))),
        ("a removed tag before UDP", 5, udp4(9, &magic()), in_vlan(5, accepted(v4(9)))),
        (
            "a removed tag, and one remaining",
            8,
            tagged(&[(0x8100, 5)], 0x0800, &ipv4()),
            in_vlan(8, accepted(v4(9))),
        ),
        ("a removed priority tag", 0x2000, ethernet(0x0842, &magic()), accepted(raw(0x0842))),
        ("a removed tag with the reserved VLAN", 0x0fff, ethernet(0x0842, &magic()), Err(BadHeader)),
        (
            "a removed priority tag before a VLAN",
            0x2000,
            tagged(&[(0x8100, 5)], 0x0842, &magic()),
            in_vlan(5, accepted(raw(0x0842))),
        ),
        (
            "a removed tag, and two remaining",
            8,
            tagged(&[(0x8100, 5), (0x8100, 6)], 0x0842, &magic()),
            Err(TooManyTags),
        ),
    ];
    rows.map(|(name, tag, bytes, expected)| Row { tag: Some(tag), ..row(name, bytes, expected) }).into()
}
