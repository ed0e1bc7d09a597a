//! A hash table with a fixed size.

use core::hash::{BuildHasher, Hash};

/// The number of entries in a set. Keys whose hashes have the same remainder share a set; a lookup compares at most
/// this many keys.
pub(super) const WAYS: usize = 16;

/// A key and its entry.
type Slot<Key, Entry> = (Key, Entry);

/// Defines which entries a table can replace.
pub(super) trait Replaceable<Key>: Default {
    /// Whether replacing this entry with a new one would have no effect. A new entry is idle.
    fn is_idle(&self, now: super::Micros) -> bool;

    /// The index of the entry that a new one replaces if none is idle; `None` if there is no room for the new one.
    fn displaced(slots: &[Slot<Key, Self>; WAYS], by: &Key) -> Option<usize>;
}

/// A table of entries with their keys. It allocates memory only when it is created.
///
/// The hasher's seed determines which keys share a set. An attacker who does not know the seed cannot choose keys whose
/// entries displace each other. An unused slot contains an idle entry with an arbitrary key.
#[derive(Debug)]
pub(super) struct Table<Key, Entry, Hasher> {
    sets: Box<[[Slot<Key, Entry>; WAYS]]>,
    hasher: Hasher,
}

impl<Key: Copy + Default + Eq + Hash, Entry: Replaceable<Key>, Hasher: BuildHasher>
    Table<Key, Entry, Hasher>
{
    /// Creates a table for about this many entries, in sets of [`WAYS`].
    pub(super) fn new(entries: usize, hasher: Hasher) -> Self {
        let sets = entries.div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| Default::default()).collect(), hasher }
    }

    /// Returns the entry of this key, and creates it if it does not exist. Returns `None` if there is no room.
    pub(super) fn entry(&mut self, key: Key, now: super::Micros) -> Option<&mut Entry> {
        let sets = u64::try_from(self.sets.len()).ok()?;
        let set = usize::try_from(self.hasher.hash_one(key).checked_rem(sets)?).ok()?;
        let set = self.sets.get_mut(set)?;
        if let Some(at) = set.iter().position(|(existing, _)| *existing == key) {
            return set.get_mut(at).map(|(_, entry)| entry);
        }
        let idle = set.iter().position(|(_, entry)| entry.is_idle(now));
        let at = idle.or_else(|| Entry::displaced(set, &key))?;
        let slot = set.get_mut(at)?;
        *slot = (key, Entry::default());
        Some(&mut slot.1)
    }
}
