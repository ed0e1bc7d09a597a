//! The reply to a call that is not admitted: org.freedesktop.DBus.Error.LimitsExceeded.

use super::head::{ERROR, NO_REPLY_EXPECTED, aligned};

const NAME: &str = "org.freedesktop.DBus.Error.LimitsExceeded";

/// The message that refuses the call with this serial, to its sender. A name is at most 255 bytes long, and
/// `text` is one of ours, so no length exceeds its field.
pub(super) fn refusal(sender: &str, call: u32, text: &str) -> Vec<u8> {
    let mut fields = Vec::with_capacity(128);
    put_field(&mut fields, 4, b's', &string(NAME));
    put_field(&mut fields, 5, b'u', &call.to_le_bytes());
    put_field(&mut fields, 6, b's', &string(sender));
    // A signature has a length of one byte.
    put_field(&mut fields, 8, b'g', &[1, b's', 0]);
    let body = string(text);
    let mut message = vec![b'l', ERROR, NO_REPLY_EXPECTED, 1];
    message.extend(length(&body));
    // Nobody replies to an error, so its serial says nothing; it must not be zero.
    message.extend(call.max(1).to_le_bytes());
    message.extend(length(&fields));
    message.extend(fields);
    message.resize(aligned(message.len(), 8), 0);
    message.extend(body);
    message
}

/// Fields begin at a multiple of eight, in the message as in the array, which begins at 16.
fn put_field(fields: &mut Vec<u8>, code: u8, kind: u8, value: &[u8]) {
    fields.resize(aligned(fields.len(), 8), 0);
    fields.extend([code, 1, kind, 0]);
    fields.extend(value);
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = length(text.as_bytes()).to_vec();
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}
