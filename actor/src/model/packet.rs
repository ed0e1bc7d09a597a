//! Announced magic packets, and the position in their sequence.

use serde::{Deserialize, Serialize};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{Dict, PacketDetails};

/// An announced magic packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The MAC address to wake.
    pub mac: MacAddr,
    /// Its number in the announcer's epoch.
    pub sequence: u64,
    /// The interface, sender, time and other details, if known.
    pub details: PacketDetails,
}

impl Packet {
    /// The epoch of the announcer that numbered it. Empty if unknown.
    #[must_use]
    pub fn epoch(&self) -> &str {
        self.details.epoch.as_deref().unwrap_or_default()
    }

    pub(crate) fn new((sequence, mac, details): (u64, String, Dict)) -> Option<Self> {
        Some(Self { mac: mac.parse().ok()?, sequence, details: PacketDetails::from(&details) })
    }
}

/// The maximum number of gaps in a position. If there are more, the packets in the oldest gap count as lost.
pub(crate) const MAX_GAPS: usize = 64;

/// Which packets of an epoch were received: all up to a number, and runs of packets after gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch of the announcer. Empty before the first packet.
    pub epoch: String,
    /// All packets up to this number were received.
    pub sequence: u64,
    /// The first and the last number of each run after a gap, in ascending order.
    pub(crate) runs: Vec<(u64, u64)>,
}

impl Position {
    /// The position after this packet and all before it.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        Self { epoch: packet.epoch().to_owned(), sequence: packet.sequence, runs: Vec::new() }
    }

    /// The highest received number.
    pub(crate) fn highest(&self) -> u64 {
        self.runs.last().map_or(self.sequence, |(_, last)| *last)
    }

    /// Whether the packet with this number was received.
    pub(crate) fn contains(&self, sequence: u64) -> bool {
        let is_in_run = |(first, last): &(u64, u64)| (*first..=*last).contains(&sequence);
        sequence <= self.sequence || self.runs.iter().any(is_in_run)
    }

    /// Adds a packet that was not received before. Returns how many packets count as lost because there are too many gaps.
    pub(crate) fn insert(&mut self, sequence: u64) -> u64 {
        let at = self.runs.partition_point(|(first, _)| *first < sequence);
        self.runs.insert(at, (sequence, sequence));
        // Merges adjacent runs.
        self.runs.dedup_by(|next, run| {
            let is_adjacent = next.0 == run.1.saturating_add(1);
            if is_adjacent {
                run.1 = next.1;
            }
            is_adjacent
        });
        let adjacent = self.runs.first().filter(|(first, _)| *first == self.sequence.saturating_add(1));
        if let Some((_, last)) = adjacent {
            self.sequence = *last;
            self.runs.remove(0);
        }
        let oldest = self.runs.first().filter(|_| self.runs.len() > MAX_GAPS);
        oldest.map(|(_, last)| *last).map_or(0, |last| self.advance_to(last))
    }

    /// Whether the runs are disjoint and ascending. In a damaged file, they might not be.
    pub(crate) fn is_valid(&self) -> bool {
        let mut end = self.sequence;
        self.runs.len() <= MAX_GAPS
            && self.runs.iter().all(|(first, last)| {
                let follows = *first > end.saturating_add(1) && last >= first;
                end = *last;
                follows
            })
    }

    /// Moves the position to this number, and returns how many packets up to it were not received.
    pub(crate) fn advance_to(&mut self, to: u64) -> u64 {
        let mut missing: u64 = 0;
        while self.sequence < to {
            let next = self.runs.first().copied().filter(|(first, _)| *first <= to);
            let gap_end = next.map_or(to, |(first, _)| first.saturating_sub(1));
            missing = missing.saturating_add(gap_end.saturating_sub(self.sequence));
            self.sequence = self.sequence.max(next.map_or(to, |(_, last)| last));
            if next.is_some() {
                self.runs.remove(0);
            }
        }
        missing
    }
}
