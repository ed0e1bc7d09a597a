//! Announced magic packets, and which of them are known.

use serde::{Deserialize, Serialize};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{Dict, PacketDetails};

/// A magic packet that the announcer has announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The MAC address that it asks to wake.
    pub mac: MacAddr,
    /// Its number within the announcer's epoch.
    pub sequence: u64,
    /// What else is known of it.
    pub details: PacketDetails,
}

impl Packet {
    /// The announcer's run that numbered it; empty where it is not known.
    #[must_use]
    pub fn epoch(&self) -> &str {
        self.details.epoch.as_deref().unwrap_or_default()
    }

    pub(crate) fn new((sequence, mac, details): (u64, String, Dict)) -> Option<Self> {
        Some(Self { mac: mac.parse().ok()?, sequence, details: PacketDetails::from(&details) })
    }
}
/// Gaps that are remembered. Beyond that the oldest is given up.
pub(crate) const GAPS: usize = 64;

/// Which packets of an epoch are known: all up to a number, and some beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The run of the announcer that numbered them; empty before the first packet.
    pub epoch: String,
    /// All up to this number are known.
    pub sequence: u64,
    /// Those beyond a gap that are known as well: the first and the last number of each run, ascending.
    pub(crate) ahead: Vec<(u64, u64)>,
}

impl Position {
    /// All up to this packet.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        Self { epoch: packet.epoch().to_owned(), sequence: packet.sequence, ahead: Vec::new() }
    }

    /// The highest number that is known.
    pub(crate) fn end(&self) -> u64 {
        self.ahead.last().map_or(self.sequence, |(_, last)| *last)
    }

    pub(crate) fn knows(&self, sequence: u64) -> bool {
        let is_in = |(first, last): &(u64, u64)| (*first..=*last).contains(&sequence);
        sequence <= self.sequence || self.ahead.iter().any(is_in)
    }

    /// Adds one that was not known. Returns how many are given up for it.
    pub(crate) fn add(&mut self, sequence: u64) -> u64 {
        let at = self.ahead.partition_point(|(first, _)| *first < sequence);
        self.ahead.insert(at, (sequence, sequence));
        // Runs that touch are one.
        self.ahead.dedup_by(|next, run| {
            let touches = next.0 == run.1.saturating_add(1);
            if touches {
                run.1 = next.1;
            }
            touches
        });
        let begins = self.ahead.first().filter(|(first, _)| *first == self.sequence.saturating_add(1));
        if let Some((_, last)) = begins {
            self.sequence = *last;
            self.ahead.remove(0);
        }
        let oldest = self.ahead.first().filter(|_| self.ahead.len() > GAPS);
        oldest.map(|(_, last)| *last).map_or(0, |last| self.pass(last))
    }

    /// Whether the runs are apart, and ascend. In a file they may be anything.
    pub(crate) fn is_sound(&self) -> bool {
        let mut end = self.sequence;
        self.ahead.len() <= GAPS
            && self.ahead.iter().all(|(first, last)| {
                let follows = *first > end.saturating_add(1) && last >= first;
                end = *last;
                follows
            })
    }

    /// Takes all up to this number for known, and returns how many of them were not.
    pub(crate) fn pass(&mut self, to: u64) -> u64 {
        let mut unknown: u64 = 0;
        while self.sequence < to {
            let next = self.ahead.first().copied().filter(|(first, _)| *first <= to);
            let gap_end = next.map_or(to, |(first, _)| first.saturating_sub(1));
            unknown = unknown.saturating_add(gap_end.saturating_sub(self.sequence));
            self.sequence = self.sequence.max(next.map_or(to, |(_, last)| last));
            if next.is_some() {
                self.ahead.remove(0);
            }
        }
        unknown
    }
}
