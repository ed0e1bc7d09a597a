//! The packets that have not been published yet.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;

use crate::packets::key::Key;
use crate::packets::ring::{Entry, MAX_PER_ADDRESS};

/// How long the queue holds a packet that cannot be published.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);

/// The announcements that have not been published yet, oldest first.
///
/// A new packet never displaces another packet. To prevent a flood from using all slots, no interface can use more
/// slots than it leaves free. The same applies to the slots for one address, except that each interface can always use
/// one of them.
#[derive(Debug)]
pub struct Queue {
    entries: VecDeque<(Instant, Entry)>,
    capacity: usize,
    by_interface: Counts<u32>,
    by_address: Counts<MacAddr>,
    by_both: Counts<(MacAddr, u32)>,
}

impl Queue {
    /// Creates a queue for this number of packets.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity,
            by_interface: Counts::default(),
            by_address: Counts::default(),
            by_both: Counts::default(),
        }
    }

    /// Whether a packet with this key fits.
    pub fn has_room(&self, key: &Key) -> bool {
        let own = self.by_interface.get(&key.interface);
        let own_for_address = self.by_both.get(&(key.target, key.interface));
        own + self.entries.len() < self.capacity
            && (own_for_address == 0 || own_for_address + self.by_address.get(&key.target) < MAX_PER_ADDRESS)
    }

    /// Adds a packet, which must fit and have the highest sequence.
    pub fn push(&mut self, entry: Entry, now: Instant) {
        let Key { target, interface, .. } = entry.key;
        self.by_interface.add(interface);
        self.by_address.add(target);
        self.by_both.add((target, interface));
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
        self.by_interface.subtract(interface);
        self.by_address.subtract(target);
        self.by_both.subtract((target, interface));
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
    fn get(&self, kind: &Kind) -> usize {
        self.0.get(kind).copied().unwrap_or(0)
    }

    fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    fn subtract(&mut self, kind: Kind) {
        let remaining = self.get(&kind).saturating_sub(1);
        if remaining == 0 {
            self.0.remove(&kind);
        } else {
            self.0.insert(kind, remaining);
        }
    }
}
