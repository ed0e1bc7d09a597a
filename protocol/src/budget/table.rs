//! A hash table that never grows.

use core::hash::{BuildHasher, Hash};

/// How many entries share one hash value's place; so many are looked at, at most.
pub(super) const WAYS: usize = 16;

/// A place for one entry, or an entry.
type Slot<Key, Entry> = Option<(Key, Entry)>;

/// What a table does with an entry that is no longer needed, or finds no room.
pub(super) trait Tenant<Key>: Default {
    /// Whether nothing would change if a new entry took its place.
    fn is_idle(&self, now: super::Micros) -> bool;

    /// Which entry has to make room for a new one, where none is idle; `None` where none has to.
    fn displaced(slots: &[Slot<Key, Self>; WAYS], by: &Key) -> Option<usize>;
}

/// Entries under their keys. It allocates when it is made, and never afterwards.
///
/// The hasher's seed decides which keys share a set. Without it nobody can choose keys that crowd
/// each other out.
#[derive(Debug)]
pub(super) struct Table<Key, Entry, Hasher> {
    sets: Box<[[Slot<Key, Entry>; WAYS]]>,
    hasher: Hasher,
}

impl<Key: Copy + Eq + Hash, Entry: Tenant<Key>, Hasher: BuildHasher> Table<Key, Entry, Hasher> {
    /// Room for about so many entries, in sets of [`WAYS`].
    pub(super) fn new(entries: usize, hasher: Hasher) -> Self {
        let sets = entries.div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| core::array::from_fn(|_| None)).collect(), hasher }
    }

    /// The entry under this key: the one that is there, or a new one. `None` where there is no room.
    pub(super) fn entry(&mut self, key: Key, now: super::Micros) -> Option<&mut Entry> {
        let sets = u64::try_from(self.sets.len()).ok()?;
        let set = usize::try_from(self.hasher.hash_one(key).checked_rem(sets)?).ok()?;
        let set = self.sets.get_mut(set)?;
        let is = |slot: &Slot<Key, Entry>| slot.as_ref().is_some_and(|(there, _)| *there == key);
        let Some(at) = set.iter().position(is) else {
            let free = |slot: &Slot<Key, Entry>| slot.as_ref().is_none_or(|(_, entry)| entry.is_idle(now));
            let at = set.iter().position(free).or_else(|| Entry::displaced(set, &key))?;
            let slot = set.get_mut(at)?;
            return Some(&mut slot.insert((key, Entry::default())).1);
        };
        set.get_mut(at)?.as_mut().map(|(_, entry)| entry)
    }
}
