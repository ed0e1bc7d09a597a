//! Rows: the link headers of savefiles.

use wakevirt_protocol::frame::Rejection::{self, BadHeader, NotAtStart};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{Carrier, MacAddr, ParsedPacket, UdpPath};

use crate::common::*;
use crate::rows::*;

pub(crate) fn link_types() -> [LinkType; 6] {
    use LinkType::{Ethernet, LinuxSll, LinuxSll2, Loop, Null, Raw};
    [Ethernet, Null, Loop, Raw, LinuxSll, LinuxSll2]
}

/// The link headers of savefiles.
pub(crate) fn links() -> Vec<Row> {
    [ethernet_links(), sll_links(), sll2_links(), null_links(), raw_links()].concat()
}

fn ipv4() -> Vec<u8> {
    Ipv4::default().wrap(&Udp::to(9).wrap(&magic()))
}

fn ipv6() -> Vec<u8> {
    Ipv6::default().wrap(&Udp::to(9).wrap(&magic()))
}

/// The bytes after the EtherType of a tag: its control information, an EtherType and a magic packet.
fn tag() -> Vec<u8> {
    bytes![[0, 5], 0x0842_u16.to_be_bytes(), magic()]
}

fn sll(kind: u16, address: u16, protocol: u16, payload: &[u8]) -> Vec<u8> {
    bytes![[0, 1], kind.to_be_bytes(), address.to_be_bytes(), SENDER, [0, 0], protocol.to_be_bytes(), payload]
}

fn sll2(kind: u16, address: u8, protocol: u16, payload: &[u8]) -> Vec<u8> {
    bytes![
        protocol.to_be_bytes(),
        [0, 0],
        [0, 0, 0, 3],
        kind.to_be_bytes(),
        [0, address],
        SENDER,
        [0, 0],
        payload
    ]
}

fn without_sender(packet: Result<ParsedPacket, Rejection>) -> Result<ParsedPacket, Rejection> {
    packet.map(|packet| ParsedPacket { carrier: remove_sender(packet.carrier), ..packet })
}

fn row_with_link(
    link: LinkType,
    name: &str,
    bytes: Vec<u8>,
    expected: Option<Result<ParsedPacket, Rejection>>,
) -> Row {
    let expected = expected.map(|expected| expected.map(|packet| vec![packet]));
    Row { link, expected, ..row(name, bytes, Err(BadHeader)) }
}

fn ethernet_links() -> Vec<Row> {
    vec![
        row_with_link(LinkType::Ethernet, "nothing", vec![], None),
        row_with_link(LinkType::Ethernet, "13 bytes", vec![0xff; 13], None),
        row_with_link(LinkType::Ethernet, "no payload", ethernet(0x88b5, &[]), Some(Err(NotAtStart))),
    ]
}

fn sll_links() -> Vec<Row> {
    vec![
        row_with_link(LinkType::LinuxSll, "0x0842", sll(1, 6, 0x0842, &magic()), Some(accepted(raw(0x0842)))),
        row_with_link(
            LinkType::LinuxSll,
            "a tag that libpcap restored",
            sll(1, 6, 0x8100, &tag()),
            Some(in_vlan(5, accepted(raw(0x0842)))),
        ),
        row_with_link(LinkType::LinuxSll, "IPv4", sll(1, 6, 0x0800, &ipv4()), Some(accepted(v4(9)))),
        row_with_link(
            LinkType::LinuxSll,
            "the loopback",
            sll(772, 6, 0x0800, &ipv4()),
            Some(accepted(v4(9))),
        ),
        row_with_link(
            LinkType::LinuxSll,
            "a tun device",
            sll(0xfffe, 0, 0x0800, &ipv4()),
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::LinuxSll,
            "long addresses",
            sll(1, 8, 0x0800, &ipv4()),
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::LinuxSll,
            "six bytes that are not a MAC address",
            sll(0xfffe, 6, 0x0800, &ipv4()),
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::LinuxSll,
            "InfiniBand",
            sll(32, 20, 0x0800, &ipv4()),
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::LinuxSll,
            "802.3",
            sll(1, 6, 1, &magic()),
            Some(accepted(Carrier::Ethernet { ethertype: None, source: Some(MacAddr::new(SENDER)) })),
        ),
        row_with_link(LinkType::LinuxSll, "15 bytes", vec![0; 15], None),
    ]
}

fn sll2_links() -> Vec<Row> {
    vec![
        row_with_link(
            LinkType::LinuxSll2,
            "0x0842",
            sll2(1, 6, 0x0842, &magic()),
            Some(accepted(raw(0x0842))),
        ),
        row_with_link(
            LinkType::LinuxSll2,
            "a tag that libpcap restored",
            sll2(1, 6, 0x8100, &tag()),
            Some(in_vlan(5, accepted(raw(0x0842)))),
        ),
        row_with_link(LinkType::LinuxSll2, "IPv6", sll2(1, 6, 0x86dd, &ipv6()), Some(accepted(v6(9)))),
        row_with_link(
            LinkType::LinuxSll2,
            "a tun device",
            sll2(0xfffe, 0, 0x86dd, &ipv6()),
            Some(without_sender(accepted(v6(9)))),
        ),
        row_with_link(LinkType::LinuxSll2, "19 bytes", vec![0; 19], None),
    ]
}

fn null_links() -> Vec<Row> {
    vec![
        row_with_link(
            LinkType::Null,
            "AF_INET, little endian",
            bytes![[2, 0, 0, 0], ipv4()],
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::Null,
            "AF_INET, big endian",
            bytes![[0, 0, 0, 2], ipv4()],
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::Null,
            "Linux's AF_INET6",
            bytes![[10, 0, 0, 0], ipv6()],
            Some(without_sender(accepted(v6(9)))),
        ),
        row_with_link(
            LinkType::Null,
            "FreeBSD's AF_INET6",
            bytes![[28, 0, 0, 0], ipv6()],
            Some(without_sender(accepted(v6(9)))),
        ),
        row_with_link(
            LinkType::Null,
            "macOS's AF_INET6, big endian",
            bytes![[0, 0, 0, 30], ipv6()],
            Some(without_sender(accepted(v6(9)))),
        ),
        row_with_link(LinkType::Null, "no packet", vec![2, 0, 0, 0], None),
        row_with_link(LinkType::Null, "3 bytes", vec![2, 0, 0], None),
        row_with_link(
            LinkType::Loop,
            "AF_INET",
            bytes![[0, 0, 0, 2], ipv4()],
            Some(without_sender(accepted(v4(9)))),
        ),
        row_with_link(
            LinkType::Loop,
            "OpenBSD's AF_INET6",
            bytes![[0, 0, 0, 24], ipv6()],
            Some(without_sender(accepted(v6(9)))),
        ),
    ]
}

fn raw_links() -> Vec<Row> {
    vec![
        row_with_link(LinkType::Raw, "IPv4", ipv4(), Some(without_sender(accepted(v4(9))))),
        row_with_link(LinkType::Raw, "IPv6", ipv6(), Some(without_sender(accepted(v6(9))))),
        row_with_link(
            LinkType::Raw,
            "IPv4 to a different port, not at the start",
            Ipv4::default().wrap(&Udp::to(40000).wrap(&bytes![[0], magic()])),
            Some(Err(NotAtStart)),
        ),
        row_with_link(LinkType::Raw, "not IP", magic(), None),
        row_with_link(LinkType::Raw, "nothing", vec![], None),
    ]
}

fn remove_sender(carrier: Carrier) -> Carrier {
    match carrier {
        Carrier::Ethernet { ethertype, .. } => Carrier::Ethernet { ethertype, source: None },
        Carrier::Udp4(path) => Carrier::Udp4(UdpPath { source_mac: None, ..path }),
        Carrier::Udp6(path) => Carrier::Udp6(UdpPath { source_mac: None, ..path }),
    }
}
