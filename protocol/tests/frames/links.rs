//! Rows: the link headers of savefiles.

use wakevirt_protocol::frame::Refusal::{self, BadHeader, NotAtStart};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{Carrier, Heard, MacAddr, UdpPath};

use crate::common::*;
use crate::rows::*;

pub(crate) fn kinds_of_link() -> [LinkType; 6] {
    use LinkType::{Ethernet, LinuxSll, LinuxSll2, Loop, Null, Raw};
    [Ethernet, Null, Loop, Raw, LinuxSll, LinuxSll2]
}

/// The link headers of savefiles.
pub(crate) fn links() -> Vec<Row> {
    use LinkType::{LinuxSll, LinuxSll2, Loop, Null};
    let ip = Ipv4::default().around(&Udp::to(9).around(&magic()));
    let ip6 = Ipv6::default().around(&Udp::to(9).around(&magic()));
    let ethertype = |number: u16| number.to_be_bytes();
    let sll = |kind: u16, address: u16, protocol: u16, payload: &[u8]| {
        bytes![
            [0, 1],
            kind.to_be_bytes(),
            address.to_be_bytes(),
            SENDER,
            [0, 0],
            ethertype(protocol),
            payload
        ]
    };
    let sll2 = |kind: u16, address: u8, protocol: u16, payload: &[u8]| {
        bytes![
            ethertype(protocol),
            [0, 0],
            [0, 0, 0, 3],
            kind.to_be_bytes(),
            [0, address],
            SENDER,
            [0, 0],
            payload
        ]
    };
    let from_nobody =
        |heard: Result<Heard, Refusal>| heard.map(|heard| Heard { carrier: unsent(heard.carrier), ..heard });
    let row = |link, name: &str, bytes, expected: Option<Result<Heard, Refusal>>| {
        let expected = expected.map(|expected| expected.map(|heard| vec![heard]));
        Row { link, expected, ..row(name, bytes, Err(BadHeader)) }
    };
    let tag = bytes![[0, 5], ethertype(0x0842), magic()];
    vec![
        row(LinkType::Ethernet, "nothing", vec![], None),
        row(LinkType::Ethernet, "13 bytes", vec![0xff; 13], None),
        row(LinkType::Ethernet, "no payload", ethernet(0x88b5, &[]), Some(Err(NotAtStart))),
        row(LinuxSll, "0x0842", sll(1, 6, 0x0842, &magic()), Some(accepted(raw(0x0842)))),
        row(
            LinuxSll,
            "a tag that libpcap put back",
            sll(1, 6, 0x8100, &tag),
            Some(in_vlan(5, accepted(raw(0x0842)))),
        ),
        row(LinuxSll, "IPv4", sll(1, 6, 0x0800, &ip), Some(accepted(v4(9)))),
        row(LinuxSll, "the loopback", sll(772, 6, 0x0800, &ip), Some(accepted(v4(9)))),
        row(LinuxSll, "a tun device", sll(0xfffe, 0, 0x0800, &ip), Some(from_nobody(accepted(v4(9))))),
        row(LinuxSll, "long addresses", sll(1, 8, 0x0800, &ip), Some(from_nobody(accepted(v4(9))))),
        row(LinuxSll, "six bytes of no MAC", sll(0xfffe, 6, 0x0800, &ip), Some(from_nobody(accepted(v4(9))))),
        row(LinuxSll, "InfiniBand", sll(32, 20, 0x0800, &ip), Some(from_nobody(accepted(v4(9))))),
        row(
            LinuxSll,
            "802.3",
            sll(1, 6, 1, &magic()),
            Some(accepted(Carrier::Ethernet { ethertype: None, source: Some(MacAddr::new(SENDER)) })),
        ),
        row(LinuxSll, "15 bytes", vec![0; 15], None),
        row(LinuxSll2, "0x0842", sll2(1, 6, 0x0842, &magic()), Some(accepted(raw(0x0842)))),
        row(
            LinuxSll2,
            "a tag that libpcap put back",
            sll2(1, 6, 0x8100, &tag),
            Some(in_vlan(5, accepted(raw(0x0842)))),
        ),
        row(LinuxSll2, "IPv6", sll2(1, 6, 0x86dd, &ip6), Some(accepted(v6(9)))),
        row(LinuxSll2, "a tun device", sll2(0xfffe, 0, 0x86dd, &ip6), Some(from_nobody(accepted(v6(9))))),
        row(LinuxSll2, "19 bytes", vec![0; 19], None),
        row(Null, "AF_INET, little endian", bytes![[2, 0, 0, 0], ip], Some(from_nobody(accepted(v4(9))))),
        row(Null, "AF_INET, big endian", bytes![[0, 0, 0, 2], ip], Some(from_nobody(accepted(v4(9))))),
        row(Null, "AF_INET6 of Linux", bytes![[10, 0, 0, 0], ip6], Some(from_nobody(accepted(v6(9))))),
        row(Null, "AF_INET6 of FreeBSD", bytes![[28, 0, 0, 0], ip6], Some(from_nobody(accepted(v6(9))))),
        row(
            Null,
            "AF_INET6 of macOS, big endian",
            bytes![[0, 0, 0, 30], ip6],
            Some(from_nobody(accepted(v6(9)))),
        ),
        row(Null, "no packet", vec![2, 0, 0, 0], None),
        row(Null, "3 bytes", vec![2, 0, 0], None),
        row(Loop, "AF_INET", bytes![[0, 0, 0, 2], ip], Some(from_nobody(accepted(v4(9))))),
        row(Loop, "AF_INET6 of OpenBSD", bytes![[0, 0, 0, 24], ip6], Some(from_nobody(accepted(v6(9))))),
        row(LinkType::Raw, "IPv4", ip.clone(), Some(from_nobody(accepted(v4(9))))),
        row(LinkType::Raw, "IPv6", ip6.clone(), Some(from_nobody(accepted(v6(9))))),
        row(
            LinkType::Raw,
            "IPv4 of another port, late",
            Ipv4::default().around(&Udp::to(40000).around(&bytes![[0], magic()])),
            Some(Err(NotAtStart)),
        ),
        row(LinkType::Raw, "no IP", magic(), None),
        row(LinkType::Raw, "nothing", vec![], None),
    ]
}

fn unsent(carrier: Carrier) -> Carrier {
    match carrier {
        Carrier::Ethernet { ethertype, .. } => Carrier::Ethernet { ethertype, source: None },
        Carrier::Udp4(path) => Carrier::Udp4(UdpPath { source_mac: None, ..path }),
        Carrier::Udp6(path) => Carrier::Udp6(UdpPath { source_mac: None, ..path }),
    }
}
