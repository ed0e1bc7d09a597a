//! The head of any D-Bus message is read without a panic, and nothing behind its end is read.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The module itself, because it is private to the service's transport, and needs no other crate.
#[expect(dead_code, reason = "the transport uses more of it than this target")]
#[path = "../../service/src/bus/transport/head.rs"]
mod head;

fuzz_target!(|message: &[u8]| {
    let Some(fixed) = message.first_chunk().and_then(head::Fixed::read) else { return };
    assert!(head::FIXED <= fixed.fields_end && fixed.fields_end <= fixed.total);
    let fields = fixed.fields(message);
    // What comes after the fields has no influence on them.
    let cut = message.get(..fixed.fields_end).unwrap_or(message);
    assert_eq!(fixed.fields(cut), fields);
});
