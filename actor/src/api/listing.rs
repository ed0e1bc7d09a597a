//! Lists in replies, which have a bounded size.

use zbus::wire::serialized::Context;
use zbus::wire::{LE, serialized_size};

use super::Dict;

/// The largest list that is replied, in bytes.
pub(super) const LARGEST_REPLY: usize = 256 * 1024;

/// Entries that fit into one reply.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) entries: Vec<Dict>,
    bytes: usize,
}

impl Listing {
    /// As many of these as fit.
    pub(super) fn of(mut entries: impl Iterator<Item = Dict>) -> Vec<Dict> {
        let mut page = Self::default();
        let _are_all = entries.all(|entry| page.push(entry));
        page.entries
    }

    /// Adds one. Returns whether it fits; if not, the page is full.
    pub(super) fn push(&mut self, entry: Dict) -> bool {
        // Each begins at a multiple of eight. One that has no size cannot be sent.
        let size = serialized_size(Context::new(LE, 0), &entry).map_or(LARGEST_REPLY, |size| *size);
        self.bytes = self.bytes.saturating_add(size).next_multiple_of(8);
        let fits = self.bytes <= LARGEST_REPLY;
        if fits {
            self.entries.push(entry);
        }
        fits
    }
}
