//! The packets that are not published yet.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;

use crate::packets::key::Key;
use crate::packets::ring::{Entry, MAX_PER_ADDRESS};

/// How long the queue holds a packet that cannot be published.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);

/// The announcements that are not published yet, oldest first.
///
/// A new packet never displaces another one. To prevent a flood from using all slots, no interface can use more slots
/// than it leaves free. The same applies to the slots of one address, except that each interface can always use one of
/// them.
#[derive(Debug)]
pub struct Queue {
    entries: VecDeque<(Instant, Entry)>,
    capacity: usize,
    of_interface: Counts<u32>,
    of_address: Counts<MacAddr>,
    of_both: Counts<(MacAddr, u32)>,
}

impl Queue {
    /// Creates a queue for this number of packets.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity,
            of_interface: Counts::default(),
            of_address: Counts::default(),
            of_both: Counts::default(),
        }
    }

    /// Whether a packet with this key fits.
    pub fn has_room(&self, key: &Key) -> bool {
        let own = self.of_interface.of(&key.interface);
        let own_of_address = self.of_both.of(&(key.target, key.interface));
        own + self.entries.len() < self.capacity
            && (own_of_address == 0 || own_of_address + self.of_address.of(&key.target) < MAX_PER_ADDRESS)
    }

    /// Adds a packet, which must fit and have the highest sequence.
    pub fn push(&mut self, entry: Entry, now: Instant) {
        let Key { target, interface, .. } = entry.key;
        self.of_interface.add(interface);
        self.of_address.add(target);
        self.of_both.add((target, interface));
        self.entries.push_back((now, entry));
    }

    /// Removes the oldest packet, if its sequence is at most `published` or its timeout has expired.
    pub fn pop(&mut self, published: u64, now: Instant) -> Option<Entry> {
        let (since, entry) = self.entries.front()?;
        if entry.sequence() > published && now.saturating_duration_since(*since) < PUBLISH_TIMEOUT {
            return None;
        }
        let (_, entry) = self.entries.pop_front()?;
        let Key { target, interface, .. } = entry.key;
        self.of_interface.subtract(interface);
        self.of_address.subtract(target);
        self.of_both.subtract((target, interface));
        Some(entry)
    }

    /// The packet with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by_key(&sequence, |(_, entry)| entry.sequence()).ok()?;
        self.entries.get_mut(at).map(|(_, entry)| entry)
    }

    /// The packets with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        let first = self.entries.partition_point(|(_, entry)| entry.sequence() <= sequence);
        self.entries.range(first..).map(|(_, entry)| entry)
    }
}

/// The number of packets of each kind. A kind without packets uses no memory.
#[derive(Debug)]
struct Counts<Kind>(HashMap<Kind, usize>);

impl<Kind> Default for Counts<Kind> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Kind: Eq + Hash> Counts<Kind> {
    fn of(&self, kind: &Kind) -> usize {
        self.0.get(kind).copied().unwrap_or(0)
    }

    fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    fn subtract(&mut self, kind: Kind) {
        let remaining = self.of(&kind).saturating_sub(1);
        if remaining == 0 {
            self.0.remove(&kind);
        } else {
            self.0.insert(kind, remaining);
        }
    }
}
