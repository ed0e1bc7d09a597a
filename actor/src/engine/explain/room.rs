//! Lists that share limited room.

/// The room that is left in a reply, in bytes.
pub(super) struct Room(usize);

impl Room {
    pub(super) const fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Returns the entries that fit, in their original order, and how many do not fit. Entries that are marked as
    /// important get room before all others.
    pub(super) fn fit<T>(
        &mut self,
        entries: impl Iterator<Item = (bool, T)>,
        size: impl Fn(&T) -> usize,
    ) -> (Vec<T>, u32) {
        let entries: Vec<_> = entries.enumerate().collect();
        let total = entries.len();
        let (important, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(_, (is_important, _))| *is_important);
        let mut fitting: Vec<_> =
            important.into_iter().chain(others).filter(|(_, (_, entry))| self.take(size(entry))).collect();
        let omitted = u32::try_from(total - fitting.len()).unwrap_or(u32::MAX);
        fitting.sort_unstable_by_key(|(position, _)| *position);
        (fitting.into_iter().map(|(_, (_, entry))| entry).collect(), omitted)
    }

    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn important_entries_get_room_first() {
        let entries = || [(false, "aaaa"), (true, "bb"), (false, "ccc"), (true, "dd")].into_iter();
        for (room, fitting, omitted) in [
            (100, &["aaaa", "bb", "ccc", "dd"][..], 0),
            (8, &["aaaa", "bb", "dd"], 1),
            (7, &["bb", "ccc", "dd"], 1),
            (3, &["bb"], 3),
            (0, &[], 4),
        ] {
            let (list, left_out) = Room::new(room).fit(entries(), |entry| entry.len());
            assert_eq!((list.as_slice(), left_out), (fitting, omitted), "{room}");
        }
    }
}
