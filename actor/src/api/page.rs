//! Lists of limited size, for replies.

use zbus::wire::serialized::Context;
use zbus::wire::{LE, serialized_size};

use super::body::Dict;

/// The maximum size of a list in a reply, in bytes.
pub(super) const MAX_REPLY: usize = 256 * 1024;

/// The entries that fit into one reply.
#[derive(Default)]
pub(super) struct ReplyPage {
    pub(super) entries: Vec<Dict>,
    bytes: usize,
}

impl ReplyPage {
    /// Returns the entries before the first one that does not fit.
    pub(super) fn fill(mut entries: impl Iterator<Item = Dict>) -> Vec<Dict> {
        let mut page = Self::default();
        let _all_fit = entries.all(|entry| page.push(entry));
        page.entries
    }

    /// Appends an entry if it fits, and returns whether it does.
    pub(super) fn push(&mut self, entry: Dict) -> bool {
        // Entries are aligned to eight bytes. An entry that cannot be serialised does not fit.
        let size = serialized_size(Context::new(LE, 0), &entry).map_or(MAX_REPLY, |size| *size);
        self.bytes = self.bytes.saturating_add(size).next_multiple_of(8);
        let fits = self.bytes <= MAX_REPLY;
        if fits {
            self.entries.push(entry);
        }
        fits
    }
}
