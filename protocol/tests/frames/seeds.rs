//! Writes the initial inputs of the fuzz targets from the tables.

use std::path::Path;

use wakevirt_protocol::CapturedPacket;
use wakevirt_protocol::sniffer::{Counters, FromSniffer, MAX_MESSAGE, Mode};

use crate::links::link_types;
use crate::rows::*;
use crate::{packets, table};

/// Writes the corpora that fuzz/README.md describes.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn writes_the_seeds_of_the_fuzz_targets() {
    let seed = |target: &str, name: &str, bytes: &[u8]| {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name.to_lowercase()), bytes).unwrap();
    };
    for row in packets::formats().iter().step_by(3) {
        seed("magic", &row.name, &row.bytes[14..]);
    }
    for row in packets::merged().iter().step_by(3) {
        seed("magic", &format!("merged {}", row.name), &row.bytes[14..]);
    }
    for row in table().iter().step_by(9) {
        let link = link_types().iter().position(|link| *link == row.link).unwrap();
        let flag = u8::from(row.tag.is_some()) << 7;
        let head = bytes![[u8::try_from(link).unwrap() | flag], row.tag.unwrap_or(0).to_be_bytes()];
        seed("frame", &row.name, &bytes![head, row.bytes]);
    }
    let mut buffer = [0; MAX_MESSAGE];
    for (name, message) in [
        ("ready", FromSniffer::Ready { mode: Mode::Raw, landlock: true }),
        ("failed", FromSniffer::Failed { reason: "why, and what to do".to_owned() }),
        (
            "counters",
            FromSniffer::Counters(Counters { malformed: 1, dropped_raw: 300, ..Counters::default() }),
        ),
        (
            "ethernet",
            FromSniffer::Packet(CapturedPacket { packet: accepted(raw(0x0842)).unwrap(), interface: 2 }),
        ),
        (
            "udp4",
            FromSniffer::Packet(CapturedPacket {
                packet: in_vlan(5, with_password(b"pass", v4(9))).unwrap(),
                interface: 300,
            }),
        ),
        (
            "udp6",
            FromSniffer::Packet(CapturedPacket {
                packet: with_password(b"secret", v6(47998)).unwrap(),
                interface: 0,
            }),
        ),
    ] {
        seed("message", name, message.encode(&mut buffer).unwrap());
    }
}
