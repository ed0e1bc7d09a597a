//! The search for magic packets gives the same result as a slow reference search.

#![no_main]

#[path = "../../protocol/tests/naive/mod.rs"]
mod naive;

use libfuzzer_sys::fuzz_target;
use wakevirt_protocol::MagicPacket;

fuzz_target!(|payload: &[u8]| {
    assert_eq!(naive::magics(MagicPacket::find(payload)), naive::anywhere(payload));
    assert_eq!(naive::magics(MagicPacket::at_start(payload)), naive::at_start(payload));
});
