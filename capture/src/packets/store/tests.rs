use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use wakevirt_protocol::{Carrier, MacAddr, MagicPacket, ParsedPacket, Stamp};

use super::*;
use crate::packets::queue::PUBLISH_TIMEOUT;
use crate::packets::ring::{Announcement, MAX_PER_ADDRESS, StoredPacket};

/// The number of interfaces in these tests.
const INTERFACES: u32 = 4;

/// The number of unpublished packets in these tests.
const CAPACITY: usize = 40;

#[derive(Debug, Clone, Copy)]
enum Step {
    Push {
        target: u8,
        interface: u32,
        password: u64,
    },
    /// Publishes all packets except the last `except` packets.
    Publish {
        except: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0..4_u8, 0..INTERFACES, 0..3_u64);
    // On average, half of the packets arrive on interface 0.
    let push = push.prop_map(|(target, interface, password)| Step::Push {
        target,
        interface: interface.saturating_sub(password.try_into().unwrap()),
        password,
    });
    let publish = (0..60_u64).prop_map(|except| Step::Publish { except });
    proptest::collection::vec(prop_oneof![9 => push, 1 => publish], 0..300)
}

fn entry(sequence: u64, key: Key) -> Entry {
    let magic = MagicPacket::new(key.target, None).unwrap();
    let carrier = Carrier::Ethernet { ethertype: None, source: None };
    let packet = ParsedPacket { magic, carrier, vlan: None };
    let stamp = Stamp { timestamp: 1, boottime: None };
    let announcement = Arc::new(Announcement { sequence, packet, interface: None, stamp });
    Entry { stored: StoredPacket { announcement, copies: 1 }, key }
}

/// A store, and the keys of all packets that were added to it.
struct TestStore {
    store: Store,
    remember: usize,
    pushed: Vec<Key>,
    published: u64,
}

impl TestStore {
    fn new(remember: usize) -> Self {
        Self { store: Store::new(CAPACITY), remember, pushed: Vec::new(), published: 0 }
    }

    fn sequence(&self) -> u64 {
        self.pushed.len() as u64
    }

    /// The key of each packet, with its sequence.
    fn pushed(&self) -> impl Iterator<Item = (u64, Key)> {
        (1..).zip(self.pushed.iter().copied())
    }

    fn apply(&mut self, step: Step, now: Instant) {
        match step {
            Step::Push { target, interface, password } => {
                let target = MacAddr::new([2, 0, 0, 0, 0, target]);
                let key = Key { target, interface, vlan: None, password: Some(password) };
                if self.store.has_room(&key) {
                    self.pushed.push(key);
                    self.store.push(entry(self.sequence(), key), now);
                }
            }
            Step::Publish { except } => {
                self.published = self.published.max(self.sequence().saturating_sub(except));
                self.store.move_published(self.published, self.remember, now);
            }
        }
    }

    fn stored(&self) -> BTreeSet<u64> {
        let stored: Vec<u64> = self.store.after(0).map(Entry::sequence).collect();
        assert!(stored.is_sorted(), "{stored:?}");
        stored.into_iter().collect()
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let stored = self.stored();
        let of_published = |key: &dyn Fn(Key) -> bool| {
            self.pushed().filter(|(n, of)| *n <= self.published && stored.contains(n) && key(*of)).count()
        };
        prop_assert!(of_published(&|_| true) <= self.remember);
        for (sequence, key) in self.pushed() {
            let is_stored = stored.contains(&sequence);
            prop_assert!(
                is_stored || sequence <= self.published,
                "{sequence} was displaced before it was published"
            );
            prop_assert!(is_stored || self.store.lost_after(sequence - 1));
            prop_assert!(of_published(&|of| of.target == key.target) <= MAX_PER_ADDRESS);
            let of_interface = |of: &Key| of.interface == key.interface;
            // An interface that never had more than its share does not lose a packet to an interface that has more.
            let share = (self.remember / INTERFACES as usize).min(MAX_PER_ADDRESS / INTERFACES as usize);
            let within = self.pushed.iter().filter(|of| of_interface(of)).count() <= share;
            prop_assert!(is_stored || !within, "{sequence}, within the share of {share}, was displaced");
        }
        for sequence in 1..=self.sequence() {
            let found = self.store.get_mut(sequence).map(|entry| entry.sequence());
            prop_assert_eq!(found, stored.contains(&sequence).then_some(sequence));
        }
        prop_assert_eq!(self.store.after(7).count(), stored.range(8..).count());
        Ok(())
    }
}

proptest! {
    #[test]
    fn displaces_only_published_packets_and_treats_interfaces_fairly(
        steps in steps(), remember in 0..40_usize
    ) {
        let (mut tested, now) = (TestStore::new(remember), Instant::now());
        for step in steps {
            tested.apply(step, now);
        }
        tested.check()?;
        // When all packets are published, the queue is empty again.
        tested.apply(Step::Publish { except: 0 }, now);
        tested.check()?;
        let before = tested.sequence();
        let flood = Step::Push { target: 9, interface: 0, password: 1 };
        (0..MAX_PER_ADDRESS).for_each(|_| tested.apply(flood, now));
        prop_assert_eq!(tested.sequence() - before, MAX_PER_ADDRESS as u64 / 2);
    }
}

#[test]
fn has_room_for_each_interface_during_floods_on_others() {
    let (mut tested, now) = (TestStore::new(0), Instant::now());
    let flood = |tested: &mut TestStore, interface| {
        let before = tested.sequence();
        (0..100).for_each(|n| {
            tested.apply(Step::Push { target: n / 5, interface, password: n.into() }, now);
        });
        tested.sequence() - before
    };
    assert_eq!([1, 2, 3].map(|interface| flood(&mut tested, interface)), [20, 10, 5]);
    assert!(flood(&mut tested, 4) > 0);
}

#[test]
fn packets_that_cannot_be_published_time_out() {
    let (mut tested, start) = (TestStore::new(3), Instant::now());
    let push = |target| Step::Push { target, interface: 0, password: 1 };
    (0..20).for_each(|n| tested.apply(push(n), start));
    let time_out = |tested: &mut TestStore, now| tested.store.move_published(0, 3, now);
    time_out(&mut tested, start + PUBLISH_TIMEOUT / 2);
    assert_eq!(tested.stored().len(), 20);
    tested.apply(push(20), start + PUBLISH_TIMEOUT / 2);
    assert_eq!(tested.sequence(), 20, "there is no room");
    time_out(&mut tested, start + PUBLISH_TIMEOUT);
    assert_eq!(tested.stored(), BTreeSet::from([18, 19, 20]));
    assert!(tested.store.lost_after(16) && !tested.store.lost_after(17));
}

#[test]
fn a_flood_for_an_address_does_not_displace_packets_from_other_interfaces_or_with_other_passwords() {
    let (mut tested, now) = (TestStore::new(1000), Instant::now());
    let mut push = |interface, password| {
        tested.apply(Step::Push { target: 1, interface, password }, now);
        tested.apply(Step::Publish { except: 0 }, now);
    };
    // Three packets on another interface, one packet with another password, and a flood.
    (0..3).for_each(|n| push(7, n));
    push(8, 1);
    (0..200).for_each(|_| push(8, 2));
    let stored = tested.stored();
    assert!((1..=4).all(|sequence| stored.contains(&sequence)), "{stored:?}");
    assert_eq!(stored.len(), MAX_PER_ADDRESS);
    // A flood with changing passwords does not affect the other interface either.
    (0..200).for_each(|n| {
        tested.apply(Step::Push { target: 1, interface: 8, password: 3 + n }, now);
        tested.apply(Step::Publish { except: 0 }, now);
    });
    let stored = tested.stored();
    assert!((1..=3).all(|sequence| stored.contains(&sequence)), "{stored:?}");
}

#[test]
fn has_a_slot_for_each_interface_for_one_address() {
    let now = Instant::now();
    let mut store = Store::new(1000);
    let mut accepted = Vec::new();
    for interface in (0..50).cycle().take(500) {
        let key = Key { target: MacAddr::new([2; 6]), interface, vlan: None, password: None };
        if store.has_room(&key) {
            accepted.push(interface);
            store.push(entry(accepted.len() as u64, key), now);
        }
    }
    assert_eq!(accepted, (0..50).collect::<Vec<_>>());
}
