//! Calls from unknown senders. They wait until the bus has returned the sender's user, so that no user's call is
//! refused because of other users' calls.

use std::collections::HashMap;

/// The maximum number of senders with waiting calls. dbus-daemon's system bus allows a user 256 connections.
const MAX_SENDERS: usize = 512;
/// The maximum total length of a sender's waiting calls, in bytes. A call without long strings is a few hundred bytes
/// long.
const MAX_BYTES: usize = 4 * 1024;

/// The waiting messages, in order for each sender.
#[derive(Debug, Default)]
pub(super) struct PendingCalls(HashMap<Box<str>, Vec<Vec<u8>>>);

impl PendingCalls {
    pub(super) fn contains(&self, sender: &str) -> bool {
        self.0.contains_key(sender)
    }

    /// Whether there is room for a message of this length.
    pub(super) fn has_room(&self, sender: &str, bytes: usize) -> bool {
        let used = match self.0.get(sender) {
            Some(messages) => messages.iter().map(Vec::len).sum(),
            None if self.0.len() >= MAX_SENDERS => return false,
            None => 0_usize,
        };
        used.saturating_add(bytes) <= MAX_BYTES
    }

    /// Whether the number of senders is the only reason why a message of this length does not fit.
    pub(super) fn is_full_for(&self, sender: &str, bytes: usize) -> bool {
        self.0.len() >= MAX_SENDERS && !self.contains(sender) && bytes <= MAX_BYTES
    }

    pub(super) fn push(&mut self, sender: &str, message: Vec<u8>) {
        self.0.entry(sender.into()).or_default().push(message);
    }

    /// Removes and returns the messages of this sender.
    pub(super) fn take(&mut self, sender: &str) -> Vec<Vec<u8>> {
        self.0.remove(sender).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_senders_and_bytes() {
        let mut pending = PendingCalls::default();
        assert!(!pending.has_room(":1.1", MAX_BYTES + 1));
        pending.push(":1.1", vec![1; MAX_BYTES - 1]);
        assert!(pending.has_room(":1.1", 1) && !pending.has_room(":1.1", 2));
        pending.push(":1.1", vec![2]);
        for sender in 1..MAX_SENDERS {
            let sender = format!(":2.{sender}");
            assert!(pending.has_room(&sender, MAX_BYTES));
            pending.push(&sender, vec![0]);
        }
        assert!(!pending.has_room(":3.1", 1), "there are too many senders");
        assert!(pending.is_full_for(":3.1", 1) && !pending.is_full_for(":1.1", 1));
        assert_eq!(pending.take(":1.1"), [vec![1; MAX_BYTES - 1], vec![2]]);
        assert!(pending.has_room(":3.1", 1) && !pending.contains(":1.1"));
    }
}
