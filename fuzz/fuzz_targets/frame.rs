//! Frames behind any link header are judged as a slow judge does, without a panic.
//!
//! The first byte of an input is the kind of link, and its highest bit tells whether the kernel has
//! taken a tag off; the next two are that tag; the frame follows.

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
    let judged = parse_frame(&frame, &Ports::default());
    assert!(
        !judged.as_ref().is_ok_and(|judged| judged.packets.is_empty()),
        "what is accepted holds a packet"
    );
    let heard: Vec<ParsedPacket> = judged.into_iter().flatten().collect();
    let source = frame.source.map(|mac| mac.to_string());
    let expected = naive::frame(source, tag, frame.protocol, frame.payload, &[0, 7, 9]);
    assert_eq!(heard.iter().cloned().map(Found::from).collect::<Vec<_>>(), expected);
    assert!(heard.len() <= SEARCHED / 102, "no more than fit what is searched");
    assert!(heard.len() == 1 || heard.iter().all(|heard| heard.magic.password().is_none()));
    for heard in heard {
        let target = heard.magic.target();
        assert!(target.is_unicast());
        let copies = target.octets().repeat(16);
        assert!(bytes.windows(copies.len()).any(|window| window == copies), "all copies are in the frame");
        assert!(heard.vlan.is_none_or(|vlan| (1..=4094).contains(&vlan.get())));
    }
});
