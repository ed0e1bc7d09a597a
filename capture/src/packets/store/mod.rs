//! Stores announced packets, first until they are published, then for `Replay`.

use std::time::Instant;

use crate::packets::key::Key;
use crate::packets::queue::Queue;
use crate::packets::ring::{Entry, Ring};

/// The unpublished packets, and the published packets.
#[derive(Debug)]
pub struct Store {
    queue: Queue,
    ring: Ring,
}

impl Store {
    /// Creates a store for this number of unpublished packets.
    pub fn new(capacity: usize) -> Self {
        Self { queue: Queue::new(capacity), ring: Ring::default() }
    }

    /// Whether a packet with this key fits in the store.
    pub fn has_room(&self, key: &Key) -> bool {
        self.queue.has_room(key)
    }

    /// Adds a packet, which must fit and have the highest sequence.
    pub fn push(&mut self, entry: Entry, now: Instant) {
        self.queue.push(entry, now);
    }

    /// Moves packets with a sequence of at most `published`, and those that timed out, to the ring, which holds at most
    /// `remember` packets.
    pub fn move_published(&mut self, published: u64, remember: usize, now: Instant) {
        while let Some(entry) = self.queue.pop(published, now) {
            self.ring.push(entry, remember);
        }
    }

    /// Removes published packets beyond `remember`.
    pub fn shrink(&mut self, remember: usize) {
        self.ring.shrink(remember);
    }

    /// The packet with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        self.ring.get_mut(sequence).or_else(|| self.queue.get_mut(sequence))
    }

    /// The packets with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        self.ring.after(sequence).chain(self.queue.after(sequence))
    }

    /// Whether a packet with a higher sequence was removed.
    pub const fn lost_after(&self, sequence: u64) -> bool {
        self.ring.lost_after(sequence)
    }
}

#[cfg(test)]
mod tests;
