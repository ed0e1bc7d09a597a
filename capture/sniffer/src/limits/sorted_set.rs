//! A set with a maximum size that allocates memory only when it is created.

/// Items in ascending order. A hash set would distribute a thousand items over a thousand pages of memory; this set uses
/// only the pages that its items fill.
pub struct SortedSet<Item> {
    items: Vec<Item>,
    max: usize,
}

impl<Item: Copy + Ord> SortedSet<Item> {
    /// An empty set for at most `max` items.
    pub fn new(max: usize) -> Self {
        Self { items: Vec::with_capacity(max), max }
    }

    pub fn contains(&self, item: Item) -> bool {
        self.items.binary_search(&item).is_ok()
    }

    /// Adds an item. Returns whether the set contains it now: it does not if the set is full.
    pub fn insert(&mut self, item: Item) -> bool {
        match self.items.binary_search(&item) {
            Ok(_) => true,
            Err(_) if self.items.len() >= self.max => false,
            Err(position) => {
                self.items.insert(position, item);
                true
            }
        }
    }

    pub fn remove(&mut self, item: Item) {
        if let Ok(position) = self.items.binary_search(&item) {
            self.items.remove(position);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.items.len()
    }
}
