//! Reading the header of a D-Bus message causes no panic, and does not depend on the bytes behind the header.

#![no_main]

use libfuzzer_sys::fuzz_target;

// Included as a file, because the module is private to the service's transport. It uses no other crate.
#[expect(dead_code, reason = "the transport uses more of it than this target")]
#[path = "../../service/src/bus/transport/head.rs"]
mod head;

fuzz_target!(|message: &[u8]| {
    let Some(fixed) = message.first_chunk().and_then(head::Fixed::read) else { return };
    assert!(head::FIXED <= fixed.fields_end && fixed.fields_end <= fixed.total);
    let fields = fixed.fields(message);
    // The bytes behind the fields do not affect them.
    let truncated = message.get(..fixed.fields_end).unwrap_or(message);
    assert_eq!(fixed.fields(truncated), fields);
});
