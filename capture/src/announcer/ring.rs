//! The packets that are remembered.

use std::collections::VecDeque;
use std::sync::Arc;

use wakevirt_protocol::{Heard, Stamp};

/// A packet that was announced.
///
/// It lies behind an [`Arc`], so that a password in it stays in one place until it is wiped.
#[derive(Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its number, counted from 1 in each epoch.
    pub sequence: u64,
    /// What was heard.
    pub heard: Heard,
    /// The name of the ingress interface, where it is known.
    pub interface: Option<Arc<str>>,
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

/// The last announcements, oldest first.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Remembered>,
    /// The sequence of the last one that was forgotten; 0 where none was.
    forgotten: u64,
}

impl Ring {
    /// Remembers one more, and forgets the oldest beyond `most`. Sequences ascend.
    pub fn push(&mut self, announcement: Arc<Announcement>, most: usize) {
        self.entries.push_back(Remembered { announcement, copies: 1 });
        self.shrink(most);
    }

    /// Forgets the oldest beyond `most`.
    pub fn shrink(&mut self, most: usize) {
        while self.entries.len() > most {
            if let Some(oldest) = self.entries.pop_front() {
                self.forgotten = oldest.announcement.sequence;
            }
        }
    }

    /// The one with this sequence.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Remembered> {
        let at = self.entries.binary_search_by_key(&sequence, |entry| entry.announcement.sequence).ok()?;
        self.entries.get_mut(at)
    }

    /// Those with a higher sequence, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Remembered> {
        let first = self.entries.partition_point(|entry| entry.announcement.sequence <= sequence);
        self.entries.range(first..)
    }

    /// Whether one with a higher sequence was forgotten.
    pub const fn lost_after(&self, sequence: u64) -> bool {
        self.forgotten > sequence
    }
}
