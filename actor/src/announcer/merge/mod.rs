//! Merges announced and replayed packets, so that each packet is passed on once. Announced packets are passed on
//! immediately; missed packets are replayed later, page by page.

use crate::model::{Packet, Position};

/// A packet that was not received before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPacket {
    /// The packet.
    pub packet: Packet,
    /// The position to save once the decision on this packet is made.
    pub position: Position,
}

/// A reply to `Replay`: one page of the stored packets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The announcer's epoch.
    pub epoch: String,
    /// Whether more packets follow these.
    pub more: bool,
    /// The packets, oldest first.
    pub packets: Vec<Packet>,
}

/// The record of received packets. It outlives connections.
#[derive(Debug, Default)]
pub struct Merge {
    position: Position,
    /// Packets captured before this time are ignored: CLOCK_BOOTTIME, in microseconds.
    not_before: u64,
    /// The number of the first announced packet that was deferred to a replay because the queue was full.
    deferred: Option<u64>,
    /// The highest packet number that was known when the last replay was requested.
    requested_at: u64,
    /// The number of packets that the announcer no longer stores.
    lost: u64,
}

impl Merge {
    /// Continues from this position, and ignores packets captured before `not_before` (CLOCK_BOOTTIME, in microseconds).
    /// An actor that has lost its state may already have handled those packets, and waking a domain twice is worse than
    /// not waking it. 0 if no state was lost.
    #[must_use]
    pub fn new(mut position: Position, not_before: u64) -> Self {
        if !position.is_valid() {
            position.runs.clear();
        }
        Self { position, not_before, ..Self::default() }
    }

    /// Whether packets were missed, or deferred to a replay.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.deferred.is_some() || !self.position.runs.is_empty()
    }

    /// Starts a replay. Returns the arguments for `Replay`: the epoch, and the number after which packets are missing.
    pub fn start_replay(&mut self) -> (&str, u64) {
        self.deferred = None;
        self.requested_at = self.position.highest();
        (&self.position.epoch, self.position.sequence)
    }

    /// Adds an announced packet, and returns it if it is new. If the queue is full, the packet is deferred to a replay.
    pub fn add_announced(&mut self, packet: Packet, has_room: bool) -> Option<NewPacket> {
        if has_room {
            return self.accept(packet);
        }
        self.enter_epoch(packet.epoch());
        if !self.position.contains(packet.sequence) {
            self.deferred = Some(self.deferred.map_or(packet.sequence, |first| first.min(packet.sequence)));
        }
        None
    }

    /// Adds a page of a replay, and returns the new packets, but at most `room` of them.
    pub fn add_page(&mut self, page: Page, room: usize) -> Vec<NewPacket> {
        let mut known = self.requested_at;
        if page.epoch != self.position.epoch {
            self.enter_epoch(&page.epoch);
            known = 0;
        }
        let last = page.packets.last().map(|packet| packet.sequence);
        let mut new = Vec::new();
        for packet in page.packets {
            if new.len() < room {
                new.extend(self.accept(packet));
            } else {
                self.add_announced(packet, false);
            }
        }
        // The reply is complete up to this number: the announcer no longer stores packets that are missing below it.
        let complete = if page.more { last } else { last.max(Some(known)) };
        let complete =
            complete.unwrap_or(known).min(self.deferred.map_or(u64::MAX, |first| first.saturating_sub(1)));
        // Packets from before `not_before` are not lost.
        let is_first = self.not_before > 0 && self.position.sequence == 0;
        let lost = self.position.advance_to(complete);
        self.lost = self.lost.saturating_add(if is_first { 0 } else { lost });
        new
    }

    /// Counts missing packets as lost, because they cannot be replayed.
    pub fn skip_gaps(&mut self) {
        let deferred = self.deferred.take().unwrap_or_default();
        let end = self.position.highest().max(deferred);
        self.lost = self.lost.saturating_add(self.position.advance_to(end));
    }

    /// Returns the number of packets that were lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    fn accept(&mut self, packet: Packet) -> Option<NewPacket> {
        self.enter_epoch(packet.epoch());
        if self.position.contains(packet.sequence) {
            return None;
        }
        self.lost = self.lost.saturating_add(self.position.insert(packet.sequence));
        let captured_at = packet.details.boottime.unwrap_or(u64::MAX);
        (captured_at >= self.not_before).then(|| NewPacket { packet, position: self.position.clone() })
    }

    /// Resets the position if the epoch is a different one: each announcer process numbers its packets from 1.
    fn enter_epoch(&mut self, epoch: &str) {
        if self.position.epoch != epoch {
            self.position = Position { epoch: epoch.to_owned(), ..Position::default() };
            self.deferred = None;
            self.requested_at = 0;
        }
    }
}

#[cfg(test)]
mod tests;
