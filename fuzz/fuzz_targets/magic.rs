//! The search for a magic packet finds what a slow one finds.

#![no_main]

#[path = "../../protocol/tests/naive/mod.rs"]
mod naive;

use libfuzzer_sys::fuzz_target;
use wakevirt_protocol::MagicPacket;

fuzz_target!(|payload: &[u8]| {
    assert_eq!(MagicPacket::find(payload).as_ref().map(naive::said), naive::anywhere(payload));
    assert_eq!(MagicPacket::at_start(payload).as_ref().map(naive::said), naive::at_start(payload));
});
