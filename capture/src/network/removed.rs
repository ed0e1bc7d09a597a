//! The interfaces that the kernel has removed.

use std::collections::BTreeSet;

/// The maximum number of indexes in [`Removed`].
const MAX_INDEXES: usize = 1024;

/// The indexes of interfaces that the kernel has removed. Any of them can exist again: an interface that returns from
/// another network namespace keeps its index, if it is free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    indexes: BTreeSet<u32>,
    /// Whether notifications were lost, so that any interface may have been removed.
    any: bool,
}

impl Removed {
    /// Adds an interface.
    pub fn add(&mut self, index: u32) {
        if self.indexes.len() < MAX_INDEXES {
            self.indexes.insert(index);
        } else {
            self.any = true;
        }
    }

    /// Adds all interfaces, because notifications were lost.
    pub const fn add_all(&mut self) {
        self.any = true;
    }

    /// Whether this interface has been, or may have been, removed.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.any || self.indexes.contains(&index)
    }

    /// Whether no interface has been removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any && self.indexes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_each_interface_that_was_added_and_any_if_there_are_too_many() {
        let mut removed = Removed::default();
        assert!(removed.is_empty());
        for index in 0..u32::try_from(MAX_INDEXES).unwrap() {
            removed.add(index);
            assert!(removed.contains(index) && !removed.contains(index + 1) && !removed.is_empty());
        }
        removed.add(5000);
        assert!(removed.contains(5000) && removed.indexes.len() == MAX_INDEXES);
    }
}
