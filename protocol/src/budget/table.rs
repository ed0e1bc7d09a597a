//! A hash table that never grows.

use core::hash::{BuildHasher, Hash};

/// How many entries share one hash value's place; so many are looked at, at most.
pub(super) const WAYS: usize = 16;

/// A key, and its entry.
type Slot<Key, Entry> = (Key, Entry);

/// What a table does with an entry that is no longer needed, or finds no room.
pub(super) trait Tenant<Key>: Default {
    /// Whether nothing would change if a new entry took its place. A new entry is idle.
    fn is_idle(&self, now: super::Micros) -> bool;

    /// Which entry has to make room for a new one, where none is idle; `None` where none has to.
    fn displaced(slots: &[Slot<Key, Self>; WAYS], by: &Key) -> Option<usize>;
}

/// Entries under their keys. It allocates when it is made, and never afterwards.
///
/// The hasher's seed decides which keys share a set. Without it nobody can choose keys that crowd
/// each other out. A place that was never used holds an idle entry, under any key.
#[derive(Debug)]
pub(super) struct Table<Key, Entry, Hasher> {
    sets: Box<[[Slot<Key, Entry>; WAYS]]>,
    hasher: Hasher,
}

impl<Key: Copy + Default + Eq + Hash, Entry: Tenant<Key>, Hasher: BuildHasher> Table<Key, Entry, Hasher> {
    /// Room for about so many entries, in sets of [`WAYS`].
    pub(super) fn new(entries: usize, hasher: Hasher) -> Self {
        let sets = entries.div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| Default::default()).collect(), hasher }
    }

    /// The entry under this key: the one that is there, or a new one. `None` where there is no room.
    pub(super) fn entry(&mut self, key: Key, now: super::Micros) -> Option<&mut Entry> {
        let sets = u64::try_from(self.sets.len()).ok()?;
        let set = usize::try_from(self.hasher.hash_one(key).checked_rem(sets)?).ok()?;
        let set = self.sets.get_mut(set)?;
        if let Some(at) = set.iter().position(|(there, _)| *there == key) {
            return set.get_mut(at).map(|(_, entry)| entry);
        }
        let idle = set.iter().position(|(_, entry)| entry.is_idle(now));
        let at = idle.or_else(|| Entry::displaced(set, &key))?;
        let slot = set.get_mut(at)?;
        *slot = (key, Entry::default());
        Some(&mut slot.1)
    }
}
