//! Merging what is announced with what is replayed: each packet once. What is announced is taken at once;
//! what was missed is replayed behind it, page by page.

use crate::model::{Packet, Position};

/// A packet that is decided about, and what is known with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPacket {
    /// The packet.
    pub packet: Packet,
    /// What is known once it was decided about.
    pub position: Position,
}

/// What an announcer remembers, or a part of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its run.
    pub epoch: String,
    /// Whether there are more after these.
    pub more: bool,
    /// The packets, oldest first.
    pub packets: Vec<Packet>,
}

/// What is known of the packets, from one connection to the next.
#[derive(Debug, Default)]
pub struct Merge {
    position: Position,
    /// Packets from before this are past: CLOCK_BOOTTIME, in microseconds.
    not_before: u64,
    /// The first one that was announced and not taken, because there was no room.
    left: Option<u64>,
    /// The highest number that was known when a replay was asked for.
    asked_at: u64,
    /// Packets that nobody remembers any more.
    lost: u64,
}

impl Merge {
    /// Goes on from there.
    #[must_use]
    pub fn new(mut position: Position) -> Self {
        if !position.is_sound() {
            position.ahead.clear();
        }
        Self { position, ..Self::default() }
    }

    /// Begins now (CLOCK_BOOTTIME, in microseconds): nobody knows what was done about earlier packets,
    /// and to do it twice is worse than to leave it.
    #[must_use]
    pub fn starting_at(now: u64) -> Self {
        Self { not_before: now, ..Self::default() }
    }

    /// Whether there are packets that were not taken.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.left.is_some() || !self.position.ahead.is_empty()
    }

    /// After what a replay is to be asked for: it is asked for now.
    pub fn ask(&mut self) -> (&str, u64) {
        self.left = None;
        self.asked_at = self.position.end();
        (&self.position.epoch, self.position.sequence)
    }

    /// A packet was announced. It is taken, or left for a replay where there is no room.
    pub fn announced(&mut self, packet: Packet, has_room: bool) -> Option<NewPacket> {
        if has_room {
            return self.take(packet);
        }
        self.begin(packet.epoch());
        if !self.position.knows(packet.sequence) {
            self.left = Some(self.left.map_or(packet.sequence, |left| left.min(packet.sequence)));
        }
        None
    }

    /// The answer to a replay: takes those that are not known, up to so many.
    pub fn replayed(&mut self, page: Page, room: usize) -> Vec<NewPacket> {
        let mut known = self.asked_at;
        if page.epoch != self.position.epoch {
            self.begin(&page.epoch);
            known = 0;
        }
        let last = page.packets.last().map(|packet| packet.sequence);
        let mut taken = Vec::new();
        for packet in page.packets {
            if taken.len() < room {
                taken.extend(self.take(packet));
            } else {
                self.announced(packet, false);
            }
        }
        // All that was remembered up to there has come.
        let told = if page.more { last } else { last.max(Some(known)) };
        let told = told.unwrap_or(known).min(self.left.map_or(u64::MAX, |left| left.saturating_sub(1)));
        // Where it is not known what was done before, nothing is missed of that time.
        let is_first = self.not_before > 0 && self.position.sequence == 0;
        let lost = self.position.pass(told);
        self.lost = self.lost.saturating_add(if is_first { 0 } else { lost });
        taken
    }

    /// Nobody tells what was missed.
    pub fn refused(&mut self) {
        let left = self.left.take().unwrap_or_default();
        let end = self.position.end().max(left);
        self.lost = self.lost.saturating_add(self.position.pass(end));
    }

    /// How many packets were lost since this was last asked.
    pub fn lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    fn take(&mut self, packet: Packet) -> Option<NewPacket> {
        self.begin(packet.epoch());
        if self.position.knows(packet.sequence) {
            return None;
        }
        self.lost = self.lost.saturating_add(self.position.add(packet.sequence));
        let seen = packet.details.boottime.unwrap_or(u64::MAX);
        (seen >= self.not_before).then(|| NewPacket { packet, position: self.position.clone() })
    }

    /// Another run of the announcer numbers anew.
    fn begin(&mut self, epoch: &str) {
        if self.position.epoch != epoch {
            self.position = Position { epoch: epoch.to_owned(), ..Position::default() };
            self.left = None;
            self.asked_at = 0;
        }
    }
}

#[cfg(test)]
mod tests;
