//! What the sniffer has not been sent yet.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;

use wakevirt_protocol::sniffer::BATCH;

/// The difference between a set, and the copy of it that the sniffer has.
///
/// It contains at most as many items as both sets together.
#[derive(Debug)]
pub struct Difference<Item> {
    /// The items in the sniffer's copy.
    sent: HashSet<Item>,
    added: BTreeSet<Item>,
    removed: BTreeSet<Item>,
}

impl<Item> Default for Difference<Item> {
    fn default() -> Self {
        Self { sent: HashSet::new(), added: BTreeSet::new(), removed: BTreeSet::new() }
    }
}

impl<Item: Copy + Eq + Hash + Ord> Difference<Item> {
    /// Records that the set now contains the item, or no longer contains it.
    pub fn set(&mut self, item: Item, contained: bool) {
        let sent = self.sent.contains(&item);
        if contained && !sent {
            self.added.insert(item);
        } else {
            self.added.remove(&item);
        }
        if sent && !contained {
            self.removed.insert(item);
        } else {
            self.removed.remove(&item);
        }
    }

    /// Records that the set now contains exactly these items.
    pub fn replace(&mut self, items: &BTreeSet<Item>) {
        let obsolete = self.sent.iter().chain(&self.added).filter(|item| !items.contains(item));
        let obsolete: Vec<Item> = obsolete.copied().collect();
        for item in obsolete {
            self.set(item, false);
        }
        for item in items {
            self.set(*item, true);
        }
    }

    /// Takes a batch of items that are either all added or all removed, and regards it as sent. A batch that is not full
    /// repeats an item.
    ///
    /// Items are removed first, so that the sniffer's copy never contains more items than the set had or has.
    pub fn next_batch(&mut self) -> Option<(bool, [Item; BATCH])> {
        let (added, items) =
            if self.removed.is_empty() { (true, &mut self.added) } else { (false, &mut self.removed) };
        let mut batch = [*items.first()?; BATCH];
        for place in &mut batch {
            let Some(item) = items.pop_first() else { break };
            *place = item;
            if added {
                self.sent.insert(item);
            } else {
                self.sent.remove(&item);
            }
        }
        Some((added, batch))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to the set: an item changes, all items are replaced, or a batch is sent.
    #[derive(Debug, Clone)]
    enum Step {
        Set(u16, bool),
        Replace(BTreeSet<u16>),
        Send,
    }

    fn step() -> impl Strategy<Value = Step> {
        let item = || 0..200_u16;
        prop_oneof![
            4 => (item(), any::<bool>()).prop_map(|(item, contained)| Step::Set(item, contained)),
            1 => proptest::collection::btree_set(item(), 0..100).prop_map(Step::Replace),
            2 => Just(Step::Send),
        ]
    }

    proptest! {
        #[test]
        fn a_copy_that_gets_all_batches_equals_the_set(steps in proptest::collection::vec(step(), 0..200)) {
            let (mut difference, mut set, mut copy) = (Difference::default(), BTreeSet::new(), BTreeSet::new());
            let send = |difference: &mut Difference<u16>, copy: &mut BTreeSet<u16>| {
                let batch = difference.next_batch();
                if let Some((added, items)) = batch {
                    items.iter().for_each(|item| {
                        let _ = if added { copy.insert(*item) } else { copy.remove(item) };
                    });
                }
                batch.is_some()
            };
            for step in steps {
                match step {
                    Step::Set(item, contained) => {
                        let _ = if contained { set.insert(item) } else { set.remove(&item) };
                        difference.set(item, contained);
                    }
                    Step::Replace(items) => {
                        set = items;
                        difference.replace(&set);
                    }
                    Step::Send => {
                        send(&mut difference, &mut copy);
                    }
                }
                prop_assert!(difference.added.len() + difference.removed.len() <= set.len() + copy.len());
            }
            while send(&mut difference, &mut copy) {}
            prop_assert_eq!(set, copy);
        }
    }
}
