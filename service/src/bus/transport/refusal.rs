//! The error reply to a call that does not reach a handler.

use super::header::{ERROR, NO_REPLY_EXPECTED, aligned};

/// Why a call is refused: the name of the D-Bus error, and its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reason {
    name: &'static str,
    text: &'static str,
}

impl Reason {
    /// The caller has reached a limit.
    pub(super) const fn limit(text: &'static str) -> Self {
        Self { name: "org.freedesktop.DBus.Error.LimitsExceeded", text }
    }

    /// The message is invalid.
    pub(super) const fn invalid(text: &'static str) -> Self {
        Self { name: "org.freedesktop.DBus.Error.InvalidArgs", text }
    }
}

/// The error reply to the sender's call with this serial. A bus name has at most 255 bytes and the reasons are short,
/// so every length fits in its field.
pub(super) fn refusal(sender: &str, call: u32, reason: Reason) -> Vec<u8> {
    let mut fields = Vec::with_capacity(128);
    push_field(&mut fields, 4, b's', &string(reason.name));
    push_field(&mut fields, 5, b'u', &call.to_le_bytes());
    push_field(&mut fields, 6, b's', &string(sender));
    // The length field of a signature is one byte long.
    push_field(&mut fields, 8, b'g', &[1, b's', 0]);
    let body = string(reason.text);
    let mut message = vec![b'l', ERROR, NO_REPLY_EXPECTED, 1];
    message.extend(length(&body));
    // There is no reply to an error, so its serial can be any number except zero.
    message.extend(call.max(1).to_le_bytes());
    message.extend(length(&fields));
    message.extend(fields);
    message.resize(aligned(message.len(), 8), 0);
    message.extend(body);
    message
}

/// Appends a field. It begins at a multiple of eight bytes in the array, and therefore also in the message, where the
/// array begins at byte 16.
fn push_field(fields: &mut Vec<u8>, code: u8, kind: u8, value: &[u8]) {
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
