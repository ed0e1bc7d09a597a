//! The published packets that are stored for `Replay`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wakevirt_protocol::{MacAddr, ParsedPacket, Stamp};

use crate::network::links::Interface;
use crate::packets::key::Key;

/// The maximum number of packets for one MAC address.
pub const MAX_PER_ADDRESS: usize = 16;

/// An announced packet.
///
/// It is shared in an [`Arc`], so that there is only one copy of its password to erase.
#[derive(Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The sequence number, counted from 1 in each epoch.
    pub sequence: u64,
    /// The packet.
    pub packet: ParsedPacket,
    /// The names of the ingress interface, if they are known.
    pub interface: Option<Arc<Interface>>,
    /// The time when the packet was received.
    pub stamp: Stamp,
}

/// An announced packet, and how many times it was received.
#[derive(Debug, Clone)]
pub struct StoredPacket {
    /// The announced packet.
    pub announcement: Arc<Announcement>,
    /// How many times the packet was received, including the first time.
    pub copies: u32,
}

/// An entry of a queue or ring.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The packet.
    pub stored: StoredPacket,
    /// The key of the packet and its copies.
    pub key: Key,
}

impl Entry {
    /// The sequence number of the packet.
    pub fn sequence(&self) -> u64 {
        self.stored.announcement.sequence
    }
}

/// The most recently published packets: at most [`MAX_PER_ADDRESS`] for one address, and a configured number in total.
///
/// If the ring is full, the oldest packet of the interface with the most packets is removed, so that a flood on one
/// interface displaces only its own packets. If there are too many packets for an address, one of them is removed: on
/// the interface with the most of them, the oldest packet with the most frequent VLAN and password.
#[derive(Debug, Default)]
pub struct Ring {
    entries: BTreeMap<u64, Entry>,
    /// The sequence numbers of each address's packets, oldest first.
    addresses: HashMap<MacAddr, Vec<u64>>,
    /// The sequence numbers of each interface's packets.
    interfaces: HashMap<u32, BTreeSet<u64>>,
    /// The highest removed sequence, or 0.
    removed: u64,
}

impl Ring {
    /// Adds a packet, and removes packets beyond `capacity`. Its sequence must be the highest.
    pub fn push(&mut self, entry: Entry, capacity: usize) {
        let (sequence, Key { target, interface, .. }) = (entry.sequence(), entry.key);
        self.entries.insert(sequence, entry);
        self.interfaces.entry(interface).or_default().insert(sequence);
        let of_address = self.addresses.entry(target).or_default();
        of_address.push(sequence);
        if of_address.len() > MAX_PER_ADDRESS
            && let Some(victim) = self.victim_of_address(target)
        {
            self.remove(victim);
        }
        self.shrink(capacity);
    }

    /// Removes packets beyond `capacity`.
    pub fn shrink(&mut self, capacity: usize) {
        while self.entries.len() > capacity {
            let largest =
                self.interfaces.values().max_by_key(|stored| (stored.len(), Reverse(stored.first())));
            let Some(victim) = largest.and_then(BTreeSet::first).copied() else { return };
            self.remove(victim);
        }
    }

    /// The packet with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&sequence)
    }

    /// The packets with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Entry> {
        self.entries.range(sequence.saturating_add(1)..).map(|(_, entry)| entry)
    }

    /// Whether a packet with a higher sequence was removed.
    pub const fn lost_after(&self, sequence: u64) -> bool {
        self.removed > sequence
    }

    /// The packet to remove first for an address: on the interface with the most packets for the address, the oldest
    /// packet with the most frequent VLAN and password.
    fn victim_of_address(&self, target: MacAddr) -> Option<u64> {
        let sequences = self.addresses.get(&target)?;
        let entries = || sequences.iter().filter_map(|sequence| self.entries.get(sequence));
        let of_interface = |key: Key| entries().filter(|entry| entry.key.interface == key.interface).count();
        let of_key = |key: Key| entries().filter(|entry| entry.key == key).count();
        // `max_by_key` returns the last maximum, which is the oldest packet in reverse order.
        let counts = |entry: &&Entry| (of_interface(entry.key), of_key(entry.key));
        entries().rev().max_by_key(counts).map(Entry::sequence)
    }

    fn remove(&mut self, sequence: u64) {
        let Some(Entry { key, .. }) = self.entries.remove(&sequence) else { return };
        self.removed = self.removed.max(sequence);
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
