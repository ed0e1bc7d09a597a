//! Parsing the header of a D-Bus message does not panic, and does not depend on the bytes after the header.

#![no_main]

use libfuzzer_sys::fuzz_target;

// Included as a file, because the module is private to the service's transport. It uses no other crate.
#[expect(dead_code, reason = "the transport uses more of it than this target")]
#[path = "../../service/src/bus/transport/header.rs"]
mod header;

fuzz_target!(|message: &[u8]| {
    let Some(header) = message.first_chunk().and_then(header::FixedHeader::parse) else { return };
    assert!(header::FIXED_LENGTH <= header.fields_end && header.fields_end <= header.total);
    let fields = header.fields(message);
    // The bytes after the fields do not affect them.
    let truncated = message.get(..header.fields_end).unwrap_or(message);
    assert_eq!(header.fields(truncated), fields);
});
