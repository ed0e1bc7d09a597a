//! Where announced packets are kept: first until they are published, then for `Replay`.

use std::time::Instant;

use crate::packets::key::Key;
use crate::packets::queue::Queue;
use crate::packets::ring::{Entry, Ring};

/// What waits to be published, and what was.
#[derive(Debug)]
pub struct Store {
    queue: Queue,
    ring: Ring,
}

impl Store {
    /// Room for so many that wait to be published.
    pub fn new(queue: usize) -> Self {
        Self { queue: Queue::new(queue), ring: Ring::default() }
    }

    /// Whether there is room for one more of these.
    pub fn has_room(&self, key: &Key) -> bool {
        self.queue.has_room(key)
    }

    /// Adds one, for which there has to be room. Sequences ascend.
    pub fn push(&mut self, entry: Entry, now: Instant) {
        self.queue.push(entry, now);
    }

    /// What has this sequence or an earlier one was published: only `remember` of these are kept.
    pub fn settle(&mut self, published: u64, remember: usize, now: Instant) {
        while let Some(entry) = self.queue.pop(published, now) {
            self.ring.push(entry, remember);
        }
    }

    /// Forgets what was published beyond `remember`.
    pub fn shrink(&mut self, remember: usize) {
        self.ring.shrink(remember);
    }

    /// The one with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        self.ring.get_mut(sequence).or_else(|| self.queue.get_mut(sequence))
    }

    /// Those with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        self.ring.after(sequence).chain(self.queue.after(sequence))
    }

    /// Whether one with a higher sequence was forgotten.
    pub const fn lost_after(&self, sequence: u64) -> bool {
        self.ring.lost_after(sequence)
    }
}

#[cfg(test)]
mod tests;
