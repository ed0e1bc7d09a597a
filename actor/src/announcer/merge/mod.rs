//! Merges announced and replayed packets, so that each packet is taken once. Announced packets are taken at once;
//! missed packets are replayed later, page by page.

use crate::model::{Packet, Position};

/// A packet that was not received before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPacket {
    /// The packet.
    pub packet: Packet,
    /// The packets that are known once this one is decided.
    pub position: Position,
}

/// A reply to `Replay`: the packets that the announcer remembers, or the first of them.
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
    /// Older packets are ignored: CLOCK_BOOTTIME, in microseconds.
    not_before: u64,
    /// The first announced packet that was left to a replay because there was no room.
    left: Option<u64>,
    /// The highest number that was known when the last replay was requested.
    requested_at: u64,
    /// Packets that the announcer no longer remembers.
    lost: u64,
}

impl Merge {
    /// Continues at this position.
    #[must_use]
    pub fn new(mut position: Position) -> Self {
        if !position.is_valid() {
            position.runs.clear();
        }
        Self { position, ..Self::default() }
    }

    /// Ignores packets from before `now` (CLOCK_BOOTTIME, in microseconds). For an actor without a record: it may
    /// have handled them already, and waking twice is worse than not waking.
    #[must_use]
    pub fn starting_at(now: u64) -> Self {
        Self { not_before: now, ..Self::default() }
    }

    /// Whether there are packets that were missed, or left to a replay.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.left.is_some() || !self.position.runs.is_empty()
    }

    /// Starts a replay. Returns the arguments of `Replay`: the epoch, and the number after which packets are
    /// missing.
    pub fn start_replay(&mut self) -> (&str, u64) {
        self.left = None;
        self.requested_at = self.position.highest();
        (&self.position.epoch, self.position.sequence)
    }

    /// Adds an announced packet, and returns it if it is new. Without room it is left to a replay.
    pub fn add_announced(&mut self, packet: Packet, has_room: bool) -> Option<NewPacket> {
        if has_room {
            return self.take(packet);
        }
        self.enter_epoch(packet.epoch());
        if !self.position.contains(packet.sequence) {
            self.left = Some(self.left.map_or(packet.sequence, |left| left.min(packet.sequence)));
        }
        None
    }

    /// Adds the reply to a replay, and returns the new packets, at most `room`.
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
                new.extend(self.take(packet));
            } else {
                self.add_announced(packet, false);
            }
        }
        // The reply is complete up to this number: what is missing below it is no longer remembered.
        let complete = if page.more { last } else { last.max(Some(known)) };
        let complete =
            complete.unwrap_or(known).min(self.left.map_or(u64::MAX, |left| left.saturating_sub(1)));
        // Packets from before `not_before` are not lost.
        let is_first = self.not_before > 0 && self.position.sequence == 0;
        let lost = self.position.advance_to(complete);
        self.lost = self.lost.saturating_add(if is_first { 0 } else { lost });
        new
    }

    /// Gives up missing packets, because they cannot be replayed.
    pub fn skip_gaps(&mut self) {
        let left = self.left.take().unwrap_or_default();
        let end = self.position.highest().max(left);
        self.lost = self.lost.saturating_add(self.position.advance_to(end));
    }

    /// Returns the number of packets that were lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    fn take(&mut self, packet: Packet) -> Option<NewPacket> {
        self.enter_epoch(packet.epoch());
        if self.position.contains(packet.sequence) {
            return None;
        }
        self.lost = self.lost.saturating_add(self.position.insert(packet.sequence));
        let seen = packet.details.boottime.unwrap_or(u64::MAX);
        (seen >= self.not_before).then(|| NewPacket { packet, position: self.position.clone() })
    }

    /// Resets the position if this is another epoch: each announcer process numbers its packets from 1.
    fn enter_epoch(&mut self, epoch: &str) {
        if self.position.epoch != epoch {
            self.position = Position { epoch: epoch.to_owned(), ..Position::default() };
            self.left = None;
            self.requested_at = 0;
        }
    }
}

#[cfg(test)]
mod tests;
