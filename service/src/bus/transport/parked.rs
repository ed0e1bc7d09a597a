//! Calls of senders that are not known yet. They wait until the bus has said which user the sender is, so that
//! nobody is refused for calls of others.

use std::collections::HashMap;

/// Senders whose calls wait. The system bus of dbus-daemon allows a user 256 connections.
const SENDERS: usize = 512;
/// The bytes of each sender's calls. A call without a long text has some hundred.
const BYTES: usize = 4 * 1024;

/// The messages that wait, in order for each sender.
#[derive(Debug, Default)]
pub(super) struct Parked(HashMap<Box<str>, Vec<Vec<u8>>>);

impl Parked {
    pub(super) fn holds(&self, sender: &str) -> bool {
        self.0.contains_key(sender)
    }

    /// Whether a message of this length may wait.
    pub(super) fn has_room(&self, sender: &str, bytes: usize) -> bool {
        let held = match self.0.get(sender) {
            Some(messages) => messages.iter().map(Vec::len).sum(),
            None if self.0.len() >= SENDERS => return false,
            None => 0_usize,
        };
        held.saturating_add(bytes) <= BYTES
    }

    /// Whether a message of this length has to wait only because there are too many senders.
    pub(super) fn is_crowded(&self, sender: &str, bytes: usize) -> bool {
        self.0.len() >= SENDERS && !self.holds(sender) && bytes <= BYTES
    }

    pub(super) fn park(&mut self, sender: &str, message: Vec<u8>) {
        self.0.entry(sender.into()).or_default().push(message);
    }

    /// The messages of this sender.
    pub(super) fn take(&mut self, sender: &str) -> Vec<Vec<u8>> {
        self.0.remove(sender).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_bounded_in_senders_and_bytes() {
        let mut parked = Parked::default();
        assert!(!parked.has_room(":1.1", BYTES + 1));
        parked.park(":1.1", vec![1; BYTES - 1]);
        assert!(parked.has_room(":1.1", 1) && !parked.has_room(":1.1", 2));
        parked.park(":1.1", vec![2]);
        for sender in 1..SENDERS {
            let sender = format!(":2.{sender}");
            assert!(parked.has_room(&sender, BYTES));
            parked.park(&sender, vec![0]);
        }
        assert!(!parked.has_room(":3.1", 1), "there are too many senders");
        assert!(parked.is_crowded(":3.1", 1) && !parked.is_crowded(":1.1", 1));
        assert_eq!(parked.take(":1.1"), [vec![1; BYTES - 1], vec![2]]);
        assert!(parked.has_room(":3.1", 1) && !parked.holds(":1.1"));
    }
}
