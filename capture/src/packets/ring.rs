//! The packets that are remembered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wakevirt_protocol::{MacAddr, ParsedPacket, Stamp};

use crate::network::links::Interface;
use crate::packets::key::Key;

/// The most packets that are kept for one MAC address.
pub const ADDRESS_SHARE: usize = 16;

/// A packet that was announced.
///
/// It lies behind an [`Arc`], so that a password in it stays in one place until it is wiped.
#[derive(Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its number, counted from 1 in each epoch.
    pub sequence: u64,
    /// What was heard.
    pub packet: ParsedPacket,
    /// The names of the ingress interface, where they are known.
    pub interface: Option<Arc<Interface>>,
    /// When it was seen.
    pub stamp: Stamp,
}

/// An announcement, and how often it was seen.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// What was announced.
    pub announcement: Arc<Announcement>,
    /// How often it was seen, the first time counted.
    pub copies: u32,
}

/// What is remembered, and under what.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is remembered.
    pub remembered: Remembered,
    /// What it has in common with its repetitions.
    pub key: Key,
}

impl Entry {
    /// The packet's number.
    pub fn sequence(&self) -> u64 {
        self.remembered.announcement.sequence
    }
}

/// The last announcements that were published.
///
/// Of one address at most [`ADDRESS_SHARE`] are kept, and a number in all. Where one has to be
/// forgotten, it is the oldest of the interface that has most of them, so that a flood on one
/// interface forgets its own; within an address, it is a repetition where there is any.
#[derive(Debug, Default)]
pub struct Ring {
    entries: BTreeMap<u64, Entry>,
    /// The sequences of each address, oldest first.
    addresses: HashMap<MacAddr, Vec<u64>>,
    /// The sequences of each interface.
    interfaces: HashMap<u32, BTreeSet<u64>>,
    /// The highest sequence that was forgotten; 0 where none was.
    forgotten: u64,
}

impl Ring {
    /// Remembers one more, and forgets what is beyond `most`. Sequences ascend.
    pub fn push(&mut self, entry: Entry, most: usize) {
        let (sequence, Key { target, interface, .. }) = (entry.sequence(), entry.key);
        self.entries.insert(sequence, entry);
        self.interfaces.entry(interface).or_default().insert(sequence);
        let of_address = self.addresses.entry(target).or_default();
        of_address.push(sequence);
        if of_address.len() > ADDRESS_SHARE
            && let Some(victim) = self.least_of_address(target)
        {
            self.forget(victim);
        }
        self.shrink(most);
    }

    /// Forgets what is beyond `most`.
    pub fn shrink(&mut self, most: usize) {
        while self.entries.len() > most {
            let heaviest = self.interfaces.values().max_by_key(|kept| (kept.len(), Reverse(kept.first())));
            let Some(victim) = heaviest.and_then(BTreeSet::first).copied() else { return };
            self.forget(victim);
        }
    }

    /// The one with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&sequence)
    }

    /// Those with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        self.entries.range(sequence.saturating_add(1)..).map(|(_, entry)| entry)
    }

    /// Whether one with a higher sequence was forgotten.
    pub const fn lost_after(&self, sequence: u64) -> bool {
        self.forgotten > sequence
    }

    /// Which of an address's packets is missed least: of the interface that has most of them, and
    /// there of the VLAN and password that has most, the oldest.
    fn least_of_address(&self, target: MacAddr) -> Option<u64> {
        let sequences = self.addresses.get(&target)?;
        let entries = || sequences.iter().filter_map(|sequence| self.entries.get(sequence));
        let of_interface = |key: Key| entries().filter(|entry| entry.key.interface == key.interface).count();
        let of_key = |key: Key| entries().filter(|entry| entry.key == key).count();
        // The first of the greatest is the oldest.
        let weight = |entry: &&Entry| (of_interface(entry.key), of_key(entry.key));
        entries().rev().max_by_key(weight).map(Entry::sequence)
    }

    fn forget(&mut self, sequence: u64) {
        let Some(Entry { key, .. }) = self.entries.remove(&sequence) else { return };
        self.forgotten = self.forgotten.max(sequence);
        if let Some(sequences) = self.addresses.get_mut(&key.target) {
            sequences.retain(|other| *other != sequence);
            if sequences.is_empty() {
                self.addresses.remove(&key.target);
            }
        }
        if let Some(sequences) = self.interfaces.get_mut(&key.interface) {
            sequences.remove(&sequence);
            if sequences.is_empty() {
                self.interfaces.remove(&key.interface);
            }
        }
    }
}
