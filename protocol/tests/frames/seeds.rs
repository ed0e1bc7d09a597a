//! Writes the initial inputs of the fuzz targets from the tables.

use std::num::NonZeroU32;
use std::path::Path;

use wakevirt_protocol::sniffer::{
    BATCH, Change, Counters, FromSniffer, MAX_MESSAGE, Mode, Request, Source, Start, ToSniffer,
};
use wakevirt_protocol::{CapturedPacket, MacAddr};

use crate::links::link_types;
use crate::rows::*;
use crate::{packets, table};

/// Writes the corpora that fuzz/README.md describes.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn writes_the_seeds_of_the_fuzz_targets() {
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
    for (name, message) in from_sniffer() {
        seed("message", name, message.encode(&mut buffer).unwrap());
    }
    for (name, message) in to_sniffer() {
        seed("to_sniffer", name, message.encode(&mut buffer).unwrap());
    }
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name.to_lowercase()), bytes).unwrap();
}

fn from_sniffer() -> [(&'static str, FromSniffer); 7] {
    let captured = |packet, interface| FromSniffer::Packet(CapturedPacket { packet, interface });
    let counters = Counters { malformed: 1, dropped_raw: 300, ..Counters::default() };
    [
        ("ready", FromSniffer::Ready { mode: Mode::Raw, landlock: true }),
        ("applied", FromSniffer::Applied),
        ("failed", FromSniffer::Failed { reason: "why, and what to do".to_owned() }),
        ("counters", FromSniffer::Counters(counters)),
        ("ethernet", captured(accepted(raw(0x0842)).unwrap(), 2)),
        ("udp4", captured(in_vlan(5, with_password(b"pass", v4(9))).unwrap(), 300)),
        ("udp6", captured(with_password(b"secret", v6(47998)).unwrap(), 0)),
    ]
}

fn to_sniffer() -> [(&'static str, ToSniffer); 7] {
    let start = Start {
        request: Request::Auto,
        ports: vec![0, 7, 9],
        bound: 2,
        outgoing: 1,
        limit: 100,
        require_landlock: true,
    };
    let interface = NonZeroU32::new(300).unwrap();
    let addresses =
        core::array::from_fn(|number| MacAddr::new([2, 0, 0, 0, 0, u8::try_from(number).unwrap()]));
    [
        ("start", ToSniffer::Start(start)),
        ("incoming", ToSniffer::Incoming { slot: 1, source: Source::Interface(interface) }),
        ("outgoing", ToSniffer::Outgoing { slot: 0, interface: interface.get() }),
        ("report", ToSniffer::Report),
        ("limit", ToSniffer::Change(Change::Limit(100))),
        ("interest", ToSniffer::Change(Change::Interest { added: true, addresses })),
        ("excluded", ToSniffer::Change(Change::Excluded { added: false, interfaces: [300; BATCH] })),
    ]
}
