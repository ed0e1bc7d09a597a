//! Merging what is announced with what is replayed: each packet once. What is announced is taken at once;
//! what was missed is replayed behind it, page by page.

use serde::{Deserialize, Serialize};

use crate::listen::Packet;

/// Gaps that are remembered. Beyond that the oldest is given up.
const GAPS: usize = 64;

/// Which packets of an epoch are known: all up to a number, and some beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The run of the announcer that numbered them; empty before the first packet.
    pub epoch: String,
    /// All up to this number are known.
    pub sequence: u64,
    /// Those beyond a gap that are known as well: the first and the last number of each run, ascending.
    ahead: Vec<(u64, u64)>,
}

impl Position {
    /// All up to this packet.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        Self { epoch: epoch(packet).to_owned(), sequence: packet.sequence, ahead: Vec::new() }
    }

    /// The highest number that is known.
    fn end(&self) -> u64 {
        self.ahead.last().map_or(self.sequence, |(_, last)| *last)
    }

    fn knows(&self, sequence: u64) -> bool {
        let is_in = |(first, last): &(u64, u64)| (*first..=*last).contains(&sequence);
        sequence <= self.sequence || self.ahead.iter().any(is_in)
    }

    /// Adds one that was not known. Returns how many are given up for it.
    fn add(&mut self, sequence: u64) -> u64 {
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
    fn is_sound(&self) -> bool {
        let mut end = self.sequence;
        self.ahead.len() <= GAPS
            && self.ahead.iter().all(|(first, last)| {
                let follows = *first > end.saturating_add(1) && last >= first;
                end = *last;
                follows
            })
    }

    /// Takes all up to this number for known, and returns how many of them were not.
    fn pass(&mut self, to: u64) -> u64 {
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

fn epoch(packet: &Packet) -> &str {
    packet.details.epoch.as_deref().unwrap_or_default()
}

/// A packet that is decided about, and what is known with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
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
    pub fn from_now_on(now: u64) -> Self {
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
    pub fn announced(&mut self, packet: Packet, has_room: bool) -> Option<Taken> {
        if has_room {
            return self.take(packet);
        }
        self.begin(epoch(&packet));
        if !self.position.knows(packet.sequence) {
            self.left = Some(self.left.map_or(packet.sequence, |left| left.min(packet.sequence)));
        }
        None
    }

    /// The answer to a replay: takes those that are not known, up to so many.
    pub fn replayed(&mut self, page: Page, room: usize) -> Vec<Taken> {
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

    fn take(&mut self, packet: Packet) -> Option<Taken> {
        self.begin(epoch(&packet));
        if self.position.knows(packet.sequence) {
            return None;
        }
        self.lost = self.lost.saturating_add(self.position.add(packet.sequence));
        let seen = packet.details.boottime.unwrap_or(u64::MAX);
        (seen >= self.not_before).then(|| Taken { packet, position: self.position.clone() })
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
