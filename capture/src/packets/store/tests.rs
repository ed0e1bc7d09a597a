use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use wakevirt_protocol::{Carrier, MacAddr, MagicPacket, ParsedPacket, Stamp};

use super::*;
use crate::packets::queue::PATIENCE;
use crate::packets::ring::{ADDRESS_SHARE, Announcement, Remembered};

/// Interfaces in these tests.
const INTERFACES: u32 = 4;

/// Packets that may wait to be published in these tests.
const QUEUE: usize = 40;

#[derive(Debug, Clone, Copy)]
enum Step {
    Push {
        target: u8,
        interface: u32,
        password: u64,
    },
    /// All but so many are published.
    Publish {
        but: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0..4_u8, 0..INTERFACES, 0..3_u64);
    // Most packets come in on one interface.
    let push = push.prop_map(|(target, interface, password)| Step::Push {
        target,
        interface: interface.saturating_sub(password.try_into().unwrap()),
        password,
    });
    let publish = (0..60_u64).prop_map(|but| Step::Publish { but });
    proptest::collection::vec(prop_oneof![9 => push, 1 => publish], 0..300)
}

fn entry(sequence: u64, key: Key) -> Entry {
    let magic = MagicPacket::new(key.target, None).unwrap();
    let carrier = Carrier::Ethernet { ethertype: None, source: None };
    let heard = ParsedPacket { magic, carrier, vlan: None };
    let stamp = Stamp { timestamp: 1, boottime: None };
    let announcement = Arc::new(Announcement { sequence, packet: heard, interface: None, stamp });
    Entry { remembered: Remembered { announcement, copies: 1 }, key }
}

/// A store, and all that was ever put into it.
struct Scene {
    store: Store,
    remember: usize,
    pushed: Vec<Key>,
    published: u64,
}

impl Scene {
    fn new(remember: usize) -> Self {
        Self { store: Store::new(QUEUE), remember, pushed: Vec::new(), published: 0 }
    }

    fn sequence(&self) -> u64 {
        self.pushed.len() as u64
    }

    /// The key of each packet, with its sequence.
    fn pushed(&self) -> impl Iterator<Item = (u64, Key)> {
        (1..).zip(self.pushed.iter().copied())
    }

    fn take(&mut self, step: Step, now: Instant) {
        match step {
            Step::Push { target, interface, password } => {
                let target = MacAddr::new([2, 0, 0, 0, 0, target]);
                let key = Key { target, interface, vlan: None, password: Some(password) };
                if self.store.has_room(&key) {
                    self.pushed.push(key);
                    self.store.push(entry(self.sequence(), key), now);
                }
            }
            Step::Publish { but } => {
                self.published = self.published.max(self.sequence().saturating_sub(but));
                self.store.settle(self.published, self.remember, now);
            }
        }
    }

    fn kept(&self) -> BTreeSet<u64> {
        let kept: Vec<u64> = self.store.after(0).map(Entry::sequence).collect();
        assert!(kept.is_sorted(), "{kept:?}");
        kept.into_iter().collect()
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let kept = self.kept();
        let of_published = |key: &dyn Fn(Key) -> bool| {
            self.pushed().filter(|(n, of)| *n <= self.published && kept.contains(n) && key(*of)).count()
        };
        prop_assert!(of_published(&|_| true) <= self.remember);
        for (sequence, key) in self.pushed() {
            let is_kept = kept.contains(&sequence);
            prop_assert!(is_kept || sequence <= self.published, "{sequence} was not published, and is lost");
            prop_assert!(is_kept || self.store.lost_after(sequence - 1));
            prop_assert!(of_published(&|of| of.target == key.target) <= ADDRESS_SHARE);
            let of_interface = |of: &Key| of.interface == key.interface;
            // Who never had more than a share of the room loses nothing to those who have more.
            let share = (self.remember / INTERFACES as usize).min(ADDRESS_SHARE / INTERFACES as usize);
            let within = self.pushed.iter().filter(|of| of_interface(of)).count() <= share;
            prop_assert!(is_kept || !within, "{sequence} within the share of {share} is lost");
        }
        for sequence in 1..=self.sequence() {
            let found = self.store.get_mut(sequence).map(|entry| entry.sequence());
            prop_assert_eq!(found, kept.contains(&sequence).then_some(sequence));
        }
        prop_assert_eq!(self.store.after(7).count(), kept.range(8..).count());
        Ok(())
    }
}

proptest! {
    #[test]
    fn loses_nothing_that_was_not_published_and_is_fair_about_what_was(
        steps in steps(), remember in 0..40_usize
    ) {
        let (mut scene, now) = (Scene::new(remember), Instant::now());
        for step in steps {
            scene.take(step, now);
        }
        scene.check()?;
        // When all was published, the queue has all its room again.
        scene.take(Step::Publish { but: 0 }, now);
        scene.check()?;
        let before = scene.sequence();
        let flood = Step::Push { target: 9, interface: 0, password: 1 };
        (0..ADDRESS_SHARE).for_each(|_| scene.take(flood, now));
        prop_assert_eq!(scene.sequence() - before, ADDRESS_SHARE as u64 / 2);
    }
}

#[test]
fn has_room_for_each_interface_whatever_the_others_do() {
    let (mut scene, now) = (Scene::new(0), Instant::now());
    let flood = |scene: &mut Scene, interface| {
        let before = scene.sequence();
        (0..100).for_each(|n| {
            scene.take(Step::Push { target: n / 5, interface, password: n.into() }, now);
        });
        scene.sequence() - before
    };
    assert_eq!([1, 2, 3].map(|interface| flood(&mut scene, interface)), [20, 10, 5]);
    assert!(flood(&mut scene, 4) > 0);
}

#[test]
fn gives_up_what_could_not_be_published_for_long() {
    let (mut scene, start) = (Scene::new(3), Instant::now());
    let push = |target| Step::Push { target, interface: 0, password: 1 };
    (0..20).for_each(|n| scene.take(push(n), start));
    let settle = |scene: &mut Scene, now| scene.store.settle(0, 3, now);
    settle(&mut scene, start + PATIENCE / 2);
    assert_eq!(scene.kept().len(), 20);
    scene.take(push(20), start + PATIENCE / 2);
    assert_eq!(scene.sequence(), 20, "there is no room");
    settle(&mut scene, start + PATIENCE);
    assert_eq!(scene.kept(), BTreeSet::from([18, 19, 20]));
    assert!(scene.store.lost_after(16) && !scene.store.lost_after(17));
}

#[test]
fn of_one_address_keeps_other_interfaces_and_other_passwords() {
    let (mut scene, now) = (Scene::new(1000), Instant::now());
    let mut push = |interface, password| {
        scene.take(Step::Push { target: 1, interface, password }, now);
        scene.take(Step::Publish { but: 0 }, now);
    };
    // Three on another interface, one with another password, and a flood.
    (0..3).for_each(|n| push(7, n));
    push(8, 1);
    (0..200).for_each(|_| push(8, 2));
    let kept = scene.kept();
    assert!((1..=4).all(|sequence| kept.contains(&sequence)), "{kept:?}");
    assert_eq!(kept.len(), ADDRESS_SHARE);
    // A flood with ever other passwords still leaves the other interface alone.
    (0..200).for_each(|n| {
        scene.take(Step::Push { target: 1, interface: 8, password: 3 + n }, now);
        scene.take(Step::Publish { but: 0 }, now);
    });
    let kept = scene.kept();
    assert!((1..=3).all(|sequence| kept.contains(&sequence)), "{kept:?}");
}

#[test]
fn has_a_place_for_each_interface_of_one_address() {
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
