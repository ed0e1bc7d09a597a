//! Rows: magic packets from known senders, and valid and invalid variants of the format.

use wakevirt_protocol::frame::Rejection::{NoMagicPacket, NotAtStart};

use crate::common::*;
use crate::rows::*;

const OTHER: [u8; 6] = [0x52, 0x54, 0x00, 0xab, 0xcd, 0xef];

/// Packets from known senders.
pub(crate) fn senders() -> Vec<Row> {
    let plan9 = bytes![magic(), [0; 7]];
    let mut rows = vec![
        row(
            "etherwake, to the target's own MAC",
            bytes![TARGET, SENDER, [0x08, 0x42], magic()],
            accepted(raw(0x0842)),
        ),
        row("etherwake -b", ethernet(0x0842, &magic()), accepted(raw(0x0842))),
        row(
            "etherwake -p with four bytes",
            ethernet(0x0842, &bytes![magic(), b"pass"]),
            with_password(b"pass", raw(0x0842)),
        ),
        row(
            "etherwake -p with six bytes",
            ethernet(0x0842, &bytes![magic(), b"secret"]),
            with_password(b"secret", raw(0x0842)),
        ),
        row("FritzBox and MikroTik", bytes![[0xff; 6], SENDER, [0x08, 0x42], magic()], accepted(raw(0x0842))),
        row("wakeonlan", udp4(9, &magic()), accepted(v4(9))),
        row(
            "wakeonlan with a password",
            udp4(9, &bytes![magic(), b"secret"]),
            with_password(b"secret", v4(9)),
        ),
        row("Guacamole over IPv6 multicast", udp6(9, &magic()), accepted(v6(9))),
        row("wol and OPNsense", udp4(40000, &magic()), accepted(v4(40000))),
        row("Plan 9, 109 bytes", udp4(0, &plan9), with_password(&[0; 6], v4(0))),
        row(
            "Plan 9 with a password",
            udp4(0, &bytes![magic(), b"secret\0"]),
            with_password(b"secret", v4(0)),
        ),
        row("Ansible, twenty copies, 126 bytes", udp4(9, &stream(6, TARGET, 20, b"")), accepted(v4(9))),
        row("wolforward, forty copies to 7", udp4(7, &stream(6, TARGET, 40, b"")), accepted(v4(7))),
        row("wolforward, forty copies to 9", udp4(9, &stream(6, TARGET, 40, b"")), accepted(v4(9))),
        row("Windows over IPv4", udp4(9, &magic()), accepted(v4(9))),
        row("Windows to ff02::1", udp6(9, &magic()), accepted(v6(9))),
    ];
    for port in [9, 47009, 47998, 47999, 48000, 48002, 48010] {
        rows.push(row(format!("Moonlight to {port}"), udp4(port, &magic()), accepted(v4(port))));
        rows.push(row(format!("Moonlight over IPv6 to {port}"), udp6(port, &magic()), accepted(v6(port))));
    }
    rows
}

/// Payloads of merged datagrams.
pub(crate) fn merged() -> Vec<Row> {
    let other = |tail: &[u8]| stream(6, OTHER, 16, tail);
    let both = [TARGET, OTHER];
    let two = bytes![magic(), other(b"")];
    let most: Vec<_> = (0..30).map(|_| magic()).collect();
    let mut rows = vec![
        row_with_packets("two in 0x0842", ethernet(0x0842, &two), &both, &raw(0x0842)),
        row_with_packets("two in a different EtherType", ethernet(0x88b5, &two), &both, &raw(0x88b5)),
        row_with_packets("two to 9 over IPv6", udp6(9, &two), &both, &v6(9)),
        row_with_packets(
            "two, neither at the start",
            udp4(9, &bytes![[0x11; 40], magic(), [0x11; 40], other(b"")]),
            &both,
            &v4(9),
        ),
        row("two to 40000, not at the start", udp4(40000, &bytes![[0], two]), Err(NotAtStart)),
        row_with_packets(
            "a hundred bytes between them",
            udp4(40000, &bytes![magic(), [0; 100], other(b"")]),
            &both,
            &v4(40000),
        ),
        row_with_packets("the same one twice", udp4(9, &bytes![magic(), magic()]), &[TARGET; 2], &v4(9)),
        row_with_packets(
            "twenty copies each",
            udp4(9, &bytes![stream(6, TARGET, 20, b""), stream(6, OTHER, 20, b"")]),
            &both,
            &v4(9),
        ),
        // 28 bytes of headers and 19 packets of 102 bytes are 1,966 bytes.
        row_with_packets(
            "thirty, nineteen of them in the first 2,048 bytes",
            udp4(9, &most.concat()),
            &[TARGET; 19],
            &v4(9),
        ),
    ];
    rows.extend(merged_with_one_target());
    rows.extend(merged_with_passwords());
    rows
}

/// One packet, and other bytes before or after it.
fn merged_with_one_target() -> Vec<Row> {
    vec![
        row(
            "one, and the password FF",
            udp4(9, &bytes![magic(), [0xff; 6]]),
            with_password(&[0xff; 6], v4(9)),
        ),
        row(
            "one, and one for a group address",
            udp4(9, &bytes![magic(), stream(6, [0xff; 6], 16, b"")]),
            accepted(v4(9)),
        ),
        row(
            "one, and a broken one",
            udp4(9, &bytes![magic(), stream(6, OTHER, 15, &TARGET)]),
            accepted(v4(9)),
        ),
        row(
            "one, whose password reaches the 2,048th byte",
            udp4(9, &bytes![[0x11; 2048 - 28 - 108], magic(), b"secret"]),
            accepted(v4(9)),
        ),
        row(
            "one, whose password ends before the 2,048th byte",
            udp4(9, &bytes![[0x11; 2048 - 28 - 109], magic(), b"secret"]),
            with_password(b"secret", v4(9)),
        ),
    ]
}

/// Two packets in one payload, with and without passwords.
fn merged_with_passwords() -> Vec<Row> {
    let mut rows = Vec::new();
    for port in [9, 40000] {
        for (first, second) in [("", ""), ("pass", "pass"), ("secret", "secret"), ("secret", "")] {
            let payload =
                bytes![stream(6, TARGET, 16, first.as_bytes()), stream(6, OTHER, 16, second.as_bytes())];
            let name = format!("two to {port}, with {first:?} and {second:?} after them");
            rows.push(row_with_packets(name, udp4(port, &payload), &[TARGET, OTHER], &v4(port)));
        }
    }
    rows
}

/// The format, in the payload of a frame that is searched in full.
pub(crate) fn formats() -> Vec<Row> {
    [valid_streams(), invalid_streams(), passwords()].concat()
}

fn wol(payload: &[u8]) -> Vec<u8> {
    ethernet(0x0842, payload)
}

fn valid_streams() -> Vec<Row> {
    let found = || accepted(raw(0x0842));
    vec![
        row("seven FF", wol(&stream(7, TARGET, 16, b"")), found()),
        row("two hundred FF", wol(&stream(200, TARGET, 16, b"")), found()),
        row("after twenty bytes", wol(&bytes![[0x11; 20], magic()]), found()),
        row(
            "after a kilobyte, and followed by more",
            wol(&bytes![[0x11; 1001], magic(), [0xff; 3]]),
            found(),
        ),
        row("after fifteen copies", wol(&bytes![stream(6, TARGET, 15, b""), magic()]), found()),
        row("after a packet for a group", wol(&bytes![stream(6, [0x33; 6], 16, b""), magic()]), found()),
        row("after a stream without copies", wol(&bytes![[0xff; 6], [0x11; 5], magic()]), found()),
        row("after five FF", wol(&bytes![[0xff; 5], [0], magic()]), found()),
        row("17 copies", wol(&stream(6, TARGET, 17, b"")), found()),
        row("20 copies", wol(&stream(6, TARGET, 20, b"")), found()),
        row("40 copies", wol(&stream(6, TARGET, 40, b"")), found()),
        row(
            "17 copies and a password",
            wol(&stream(6, TARGET, 17, b"secret")),
            with_password(b"secret", raw(0x0842)),
        ),
    ]
}

fn invalid_streams() -> Vec<Row> {
    let rejected = || Err(NoMagicPacket);
    vec![
        row("five FF", wol(&stream(5, TARGET, 16, b"")), rejected()),
        row("15 copies", wol(&stream(6, TARGET, 15, b"")), rejected()),
        row("16 copies without the last byte", wol(&stream(6, TARGET, 15, &TARGET[..5])), rejected()),
        row("a byte after the stream", wol(&bytes![[0xff; 6], [0], TARGET.repeat(16)]), rejected()),
        row(
            "a break between copies",
            wol(&bytes![stream(6, TARGET, 8, b""), [0], TARGET.repeat(8)]),
            rejected(),
        ),
        row("a different last copy", wol(&stream(6, TARGET, 15, &OTHER)), rejected()),
        row(
            "alternating copies of two addresses",
            wol(&bytes![[0xff; 6], bytes![TARGET, OTHER].repeat(8)]),
            rejected(),
        ),
        row("for the broadcast MAC", wol(&stream(6, [0xff; 6], 16, b"")), rejected()),
        row("for an IPv4 multicast MAC", wol(&stream(6, [0x01, 0x00, 0x5e, 0, 0, 1], 16, b"")), rejected()),
        row("for an IPv6 multicast MAC", wol(&stream(6, [0x33, 0x33, 0, 0, 0, 1], 16, b"")), rejected()),
        row("for the all-zero MAC", wol(&stream(6, [0; 6], 16, b"")), rejected()),
        row("only FF", wol(&[0xff; 1500]), rejected()),
        row("only the stream", wol(&[0xff; 6]), rejected()),
        row("nothing", wol(&[]), rejected()),
    ]
}

/// Bytes after the sixteenth copy.
fn passwords() -> Vec<Row> {
    let found = || accepted(raw(0x0842));
    let mut rows = Vec::new();
    for length in 0..=3 {
        rows.push(row(
            format!("{length} bytes of password"),
            wol(&stream(6, TARGET, 16, &b"sec"[..length])),
            found(),
        ));
    }
    for length in 4..=5 {
        let frame = wol(&stream(6, TARGET, 16, &b"passw"[..length]));
        rows.push(row(format!("{length} bytes of password"), frame, with_password(b"pass", raw(0x0842))));
    }
    for length in 6..=8 {
        let frame = wol(&stream(6, TARGET, 16, &b"password"[..length]));
        rows.push(row(format!("{length} bytes of password"), frame, with_password(b"passwo", raw(0x0842))));
    }
    for length in 1..6 {
        let frame = wol(&stream(6, TARGET, 16, &TARGET[..length]));
        rows.push(row(format!("{length} bytes of a seventeenth copy"), frame, found()));
    }
    rows
}
