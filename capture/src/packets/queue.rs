//! The packets that are to be published.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;

use crate::packets::key::Key;
use crate::packets::ring::{ADDRESS_SHARE, Entry};

/// For how long a packet that cannot be published is kept as if it soon would be.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// The announcements that were not published yet, oldest first.
///
/// None of them ever makes room for another. So a flood must not get all the room: no interface holds
/// more than it leaves free for the others. The same goes for the room of one address, in which each
/// interface has a place in any case.
#[derive(Debug)]
pub struct Queue {
    entries: VecDeque<(Instant, Entry)>,
    most: usize,
    of_interface: Counts<u32>,
    of_address: Counts<MacAddr>,
    of_both: Counts<(MacAddr, u32)>,
}

impl Queue {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            most,
            of_interface: Counts::default(),
            of_address: Counts::default(),
            of_both: Counts::default(),
        }
    }

    /// Whether there is room for one more of these.
    pub fn has_room(&self, key: &Key) -> bool {
        let own = self.of_interface.of(&key.interface);
        let own_of_address = self.of_both.of(&(key.target, key.interface));
        own + self.entries.len() < self.most
            && (own_of_address == 0 || own_of_address + self.of_address.of(&key.target) < ADDRESS_SHARE)
    }

    /// Adds one, for which there has to be room. Sequences ascend.
    pub fn push(&mut self, entry: Entry, now: Instant) {
        let Key { target, interface, .. } = entry.key;
        self.of_interface.add(interface);
        self.of_address.add(target);
        self.of_both.add((target, interface));
        self.entries.push_back((now, entry));
    }

    /// Takes the oldest out, if it has been published under this sequence or an earlier one, or has
    /// waited for too long.
    pub fn pop(&mut self, published: u64, now: Instant) -> Option<Entry> {
        let (since, entry) = self.entries.front()?;
        if entry.sequence() > published && now.saturating_duration_since(*since) < PATIENCE {
            return None;
        }
        let (_, entry) = self.entries.pop_front()?;
        let Key { target, interface, .. } = entry.key;
        self.of_interface.subtract(interface);
        self.of_address.subtract(target);
        self.of_both.subtract((target, interface));
        Some(entry)
    }

    /// The one with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by_key(&sequence, |(_, entry)| entry.sequence()).ok()?;
        self.entries.get_mut(at).map(|(_, entry)| entry)
    }

    /// Those with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        let first = self.entries.partition_point(|(_, entry)| entry.sequence() <= sequence);
        self.entries.range(first..).map(|(_, entry)| entry)
    }
}

/// How many there are of each. What there is none of takes no room.
#[derive(Debug)]
struct Counts<Key>(HashMap<Key, usize>);

impl<Key> Default for Counts<Key> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Key: Eq + Hash> Counts<Key> {
    fn of(&self, key: &Key) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: Key) {
        *self.0.entry(key).or_default() += 1;
    }

    fn subtract(&mut self, key: Key) {
        let left = self.of(&key).saturating_sub(1);
        if left == 0 {
            self.0.remove(&key);
        } else {
            self.0.insert(key, left);
        }
    }
}
