//! Rows: UDP, IPv4 and IPv6.

use wakevirt_protocol::frame::Rejection::*;

use crate::common::*;
use crate::rows::*;

/// Values in the UDP header, and UDP ports.
pub(crate) fn udp() -> Vec<Row> {
    let with_length =
        |length, payload: &[u8]| Ipv4::default().frame(&Udp { port: 9, length: Some(length) }.wrap(payload));
    let secret = bytes![magic(), b"secret"];
    let mut rows = vec![
        row("a length beyond the packet", with_length(2000, &secret), with_password(b"secret", v4(9))),
        row("the maximum length", with_length(0xffff, &magic()), accepted(v4(9))),
        row("a length that ends before the password", with_length(8 + 102, &secret), accepted(v4(9))),
        row(
            "a length that truncates the password",
            with_length(8 + 106, &secret),
            with_password(b"secr", v4(9)),
        ),
        row("a length that truncates the last copy", with_length(8 + 101, &magic()), Err(NoMagicPacket)),
        row("the length of the header", with_length(8, &magic()), Err(NoMagicPacket)),
        row("a length that is too short", with_length(7, &magic()), Err(BadHeader)),
        row("a length of 0", with_length(0, &magic()), Err(BadHeader)),
        row("no payload", udp4(9, &[]), Err(NoMagicPacket)),
        row("no payload to a different port", udp4(40000, &[]), Err(NotAtStart)),
        row("a truncated header", Ipv4::default().frame(&[0; 7]), Err(BadHeader)),
        row("a DHCP-like packet", udp4(67, &dhcp_like(&[0; 192])), Err(NotAtStart)),
        row("a DHCP-like packet to 9", udp4(9, &dhcp_like(&[0; 192])), Err(NoMagicPacket)),
        row("a magic packet in a DHCP-like one", udp4(67, &dhcp_like(&magic())), Err(NotAtStart)),
        row(
            "a magic packet in a DHCP-like one to 9",
            udp4(9, &dhcp_like(&magic())),
            with_password(&[0x63, 0x82, 0x53, 0x63, 0xff, 0xff], v4(9)),
        ),
    ];
    rows.extend(udp_ports());
    rows
}

/// Packets to several ports, with the magic packet at the start of the payload or later.
fn udp_ports() -> Vec<Row> {
    let late = bytes![[0x11; 33], magic()];
    let mut rows = Vec::new();
    for port in [0, 7, 9, CONFIGURED] {
        rows.push(row(format!("to {port}"), udp4(port, &magic()), accepted(v4(port))));
        rows.push(row(format!("to {port}, not at the start"), udp4(port, &late), accepted(v4(port))));
        rows.push(row(
            format!("over IPv6 to {port}, not at the start"),
            udp6(port, &late),
            accepted(v6(port)),
        ));
    }
    for port in [1, 8, 10, 67, 40000, 47009, 47998, 65535] {
        rows.push(row(
            format!("at the start to {port}"),
            udp4(port, &stream(9, TARGET, 16, b"")),
            accepted(v4(port)),
        ));
        rows.push(row(format!("not at the start to {port}"), udp4(port, &late), Err(NotAtStart)));
        rows.push(row(format!("over IPv6, not at the start to {port}"), udp6(port, &late), Err(NotAtStart)));
        rows.push(row(
            format!("five FF to {port}"),
            udp4(port, &stream(5, TARGET, 16, b"")),
            Err(NotAtStart),
        ));
    }
    rows
}

/// A BOOTP header with the target's MAC address, a boot file and the magic cookie, followed by 0xFF bytes.
fn dhcp_like(file: &[u8]) -> Vec<u8> {
    bytes![
        [1, 1, 6, 0],
        [0xff; 24],
        TARGET,
        [0; 10],
        file,
        [0x63, 0x82, 0x53, 0x63],
        [0xff; 6],
        TARGET,
        [0xff; 40]
    ]
}

pub(crate) fn ipv4() -> Vec<Row> {
    let datagram = Udp::to(9).wrap(&magic());
    let total = 20 + 8 + 102;
    let options = |bytes: usize| Ipv4 { options: vec![1; bytes], ..Ipv4::default() };
    let long = |length| Ipv4 { length: Some(length), ..Ipv4::default() };
    let ihl = |ihl| Ipv4 { ihl: Some(ihl), ..Ipv4::default() };
    let fragment = |fragment| Ipv4 { fragment, ..Ipv4::default() };
    let protocol = |protocol| Ipv4 { protocol, ..Ipv4::default() };
    let version = |version| Ipv4 { version, ..Ipv4::default() };
    vec![
        row("4 bytes of options", options(4).frame(&datagram), accepted(v4(9))),
        row("40 bytes of options", options(40).frame(&datagram), accepted(v4(9))),
        row("a header of 16 bytes", ihl(4).frame(&datagram), Err(BadHeader)),
        row("a header of 0 bytes", ihl(0).frame(&datagram), Err(BadHeader)),
        row("a header beyond the packet", ihl(15).frame(&[0; 20]), Err(BadHeader)),
        row("truncated options", options(40).frame(&datagram)[..14 + 59].to_vec(), Err(BadHeader)),
        row("a truncated header", ethernet(0x0800, &[0x45; 19]), Err(BadHeader)),
        row("nothing", ethernet(0x0800, &[]), Err(BadHeader)),
        row("a wrong version", version(5).frame(&datagram), Err(BadHeader)),
        row("IPv6 under IPv4's EtherType", version(6).frame(&datagram), Err(BadHeader)),
        row("a magic packet under IPv4's EtherType", ethernet(0x0800, &magic()), Err(BadHeader)),
        row("a length beyond the packet", long(1500).frame(&datagram), accepted(v4(9))),
        row("a length that truncates the last copy", long(total - 1).frame(&datagram), Err(NoMagicPacket)),
        row("a length that truncates the UDP header", long(27).frame(&datagram), Err(BadHeader)),
        row("the length of the header", long(20).frame(&datagram), Err(BadHeader)),
        row("a length shorter than the header", long(19).frame(&datagram), Err(BadHeader)),
        row("a length of 0", long(0).frame(&datagram), Err(BadHeader)),
        row("padding after it", bytes![udp4(9, &magic()), [0; 18]], accepted(v4(9))),
        row(
            "a frame checksum after it",
            bytes![udp4(9, &magic()), [0xde, 0xad, 0xbe, 0xef]],
            accepted(v4(9)),
        ),
        row(
            "padding after its password",
            bytes![udp4(9, &bytes![magic(), b"pass"]), [0; 6]],
            with_password(b"pass", v4(9)),
        ),
        row("the Don't Fragment flag", fragment(0x4000).frame(&datagram), accepted(v4(9))),
        row("a first fragment", fragment(0x2000).frame(&datagram), accepted(v4(9))),
        row("a later fragment", fragment(0x2001).frame(&datagram), Err(LaterFragment)),
        row("a later fragment with a large offset", fragment(0x1000).frame(&datagram), Err(LaterFragment)),
        row("the last fragment", fragment(0x00b9).frame(&magic()), Err(LaterFragment)),
        row("TCP", protocol(6).frame(&datagram), Err(NotUdp)),
        row("ICMP", protocol(1).frame(&datagram), Err(NotUdp)),
        row("UDP-Lite", protocol(136).frame(&datagram), Err(NotUdp)),
        row("AH", protocol(AUTHENTICATION).frame(&datagram), Err(NotUdp)),
        row("IPv4 in IPv4", protocol(4).frame(&Ipv4::default().wrap(&datagram)), Err(NotUdp)),
    ]
}

pub(crate) fn ipv6() -> Vec<Row> {
    let datagram = Udp::to(9).wrap(&magic());
    let plain = Ipv6::default;
    let kinds = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, FRAGMENT, AUTHENTICATION];
    let four: Vec<_> = kinds[..4].iter().map(|kind| extension(*kind, 0)).collect();
    let five: Vec<_> = kinds.iter().map(|kind| extension(*kind, 0)).collect();
    let long = |length| Ipv6 { length: Some(length), ..plain() };
    let protocol = |protocol| Ipv6 { protocol, ..plain() };
    let jumbo = (HOP_BY_HOP, vec![0, 0, 0xc2, 4, 0, 1, 0, 0]);
    let mut rows = vec![
        row("four extension headers", Ipv6::with(&four).frame(&datagram), accepted(v6(9))),
        row("five extension headers", Ipv6::with(&five).frame(&datagram), Err(TooManyExtensionHeaders)),
        row(
            "four extension headers and TCP",
            Ipv6 { protocol: 6, ..Ipv6::with(&four) }.frame(&datagram),
            Err(NotUdp),
        ),
        row("a first fragment", Ipv6::with(&[fragment(0, true)]).frame(&datagram), accepted(v6(9))),
        row("an atomic fragment", Ipv6::with(&[fragment(0, false)]).frame(&datagram), accepted(v6(9))),
        row("a later fragment", Ipv6::with(&[fragment(1, true)]).frame(&datagram), Err(LaterFragment)),
        row("the last fragment", Ipv6::with(&[fragment(181, false)]).frame(&magic()), Err(LaterFragment)),
        row(
            "an extension header beyond the packet",
            Ipv6::with(&[(ROUTING, vec![0, 200, 0, 0, 0, 0, 0, 0])]).frame(&datagram),
            Err(BadHeader),
        ),
        row(
            "a truncated extension header",
            Ipv6::with(&[(HOP_BY_HOP, vec![0, 0, 0])]).frame(&[]),
            Err(BadHeader),
        ),
        row("ESP", protocol(50).frame(&datagram), Err(NotUdp)),
        row("no next header", protocol(59).frame(&datagram), Err(NotUdp)),
        row("TCP", protocol(6).frame(&datagram), Err(NotUdp)),
        row("ICMPv6", protocol(58).frame(&datagram), Err(NotUdp)),
        row("mobility", protocol(135).frame(&datagram), Err(NotUdp)),
        row("a wrong version", Ipv6 { version: 4, ..plain() }.frame(&datagram), Err(BadHeader)),
        row("a truncated header", ethernet(0x86dd, &[0x60; 39]), Err(BadHeader)),
        row("nothing", ethernet(0x86dd, &[]), Err(BadHeader)),
        row("a length beyond the packet", long(1500).frame(&datagram), accepted(v6(9))),
        row("a length that truncates the last copy", long(8 + 101).frame(&datagram), Err(NoMagicPacket)),
        row("a length that truncates the UDP header", long(7).frame(&datagram), Err(BadHeader)),
        row("a length of 0", long(0).frame(&datagram), Err(BadHeader)),
        row("a jumbogram", Ipv6 { length: Some(0), ..Ipv6::with(&[jumbo]) }.frame(&datagram), Err(BadHeader)),
        row("padding after it", bytes![udp6(9, &magic()), [0; 18]], accepted(v6(9))),
        row("a password after UDP's length", plain().frame(&bytes![datagram, b"secret"]), accepted(v6(9))),
    ];
    rows.extend(kinds.into_iter().flat_map(extension_headers));
    rows
}

/// One, four and five extension headers of one kind.
fn extension_headers(kind: u8) -> Vec<Row> {
    let datagram = Udp::to(9).wrap(&magic());
    let mut rows = Vec::new();
    for more in [0, 3] {
        let frame = Ipv6::with(&[extension(kind, more)]).frame(&datagram);
        rows.push(row(
            format!("extension header {kind}, {more} units longer than the minimum"),
            frame,
            accepted(v6(9)),
        ));
    }
    let frame = Ipv6::with(&vec![extension(kind, 0); 4]).frame(&datagram);
    rows.push(row(format!("extension header {kind}, four times"), frame, accepted(v6(9))));
    let frame = Ipv6::with(&vec![extension(kind, 0); 5]).frame(&datagram);
    rows.push(row(format!("extension header {kind}, five times"), frame, Err(TooManyExtensionHeaders)));
    rows
}
