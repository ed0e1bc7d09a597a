//! The parser gives the same result as a slow reference parser for frames with any link header, without a panic.
//!
//! The first byte of an input selects the link type. If its highest bit is set, the next two bytes are the tag that the
//! kernel removed; otherwise, they are ignored. The frame follows.

#![no_main]

#[path = "../../protocol/tests/naive/mod.rs"]
mod naive;

use libfuzzer_sys::fuzz_target;
use naive::Found;
use wakevirt_protocol::ParsedPacket;
use wakevirt_protocol::frame::{Frame, Ports, SEARCHED, parse_frame};
use wakevirt_protocol::link::LinkType;

const KINDS: [LinkType; 6] = [
    LinkType::Ethernet,
    LinkType::Null,
    LinkType::Loop,
    LinkType::Raw,
    LinkType::LinuxSll,
    LinkType::LinuxSll2,
];

fuzz_target!(|input: &[u8]| {
    let [kind, high, low, bytes @ ..] = input else { return };
    let link = KINDS[usize::from(kind & 0x7f) % KINDS.len()];
    let Some(frame) = link.strip(bytes) else { return };
    let tag = (kind & 0x80 != 0).then_some(u16::from_be_bytes([*high, *low]));
    let frame = Frame { tag, ..frame };
    let parsed = parse_frame(&frame, &Ports::default());
    assert!(
        !parsed.as_ref().is_ok_and(|parsed| parsed.packets.is_empty()),
        "an accepted frame contains no packet"
    );
    let packets: Vec<ParsedPacket> = parsed.into_iter().flatten().collect();
    let source = frame.source.map(|mac| mac.to_string());
    let expected = naive::frame(source, tag, frame.protocol, frame.payload, &[0, 7, 9]);
    assert_eq!(packets.iter().cloned().map(Found::from).collect::<Vec<_>>(), expected);
    assert!(packets.len() <= SEARCHED / 102, "more packets than fit in the searched bytes");
    assert!(packets.len() == 1 || packets.iter().all(|packet| packet.magic.password().is_none()));
    for packet in packets {
        let target = packet.magic.target();
        assert!(target.is_unicast());
        let copies = target.octets().repeat(16);
        assert!(
            bytes.windows(copies.len()).any(|window| window == copies),
            "the frame does not contain all copies"
        );
        assert!(packet.vlan.is_none_or(|vlan| (1..=4094).contains(&vlan.get())));
    }
});
