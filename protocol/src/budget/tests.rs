use core::hash::{BuildHasherDefault, Hasher};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, RandomState};

use proptest::prelude::*;

use super::*;

const SECOND: Micros = 1_000_000;

const RATES: Rates = Rates { address: 10, interface: 100, unknown: 5 };

/// Puts all keys into one set, as an attacker who can choose colliding keys would.
#[derive(Default)]
struct CollidingHasher;

impl Hasher for CollidingHasher {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, _: &[u8]) {}
}

type BuildColliding = BuildHasherDefault<CollidingHasher>;

fn mac(n: u16) -> MacAddr {
    let [high, low] = n.to_be_bytes();
    MacAddr::new([2, 0, 0, 0, high, low])
}

fn budgets() -> Budgets<BuildHasherDefault<DefaultHasher>> {
    Budgets::default_size(RATES, BuildHasherDefault::default())
}

/// A packet of a flood: the time since the previous packet, its interface and its address.
#[derive(Debug, Clone, Copy)]
struct Step {
    pause: Micros,
    interface: u32,
    address: u16,
}

fn steps(addresses: u16, interfaces: u32) -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![3 => Just(0), 4 => 1..20_000_u64, 1 => 0..3 * SECOND];
    let step = (pause, 0..interfaces, 0..addresses);
    let step = step.prop_map(|(pause, interface, address)| Step { pause, interface, address });
    proptest::collection::vec(step, 1..400)
}

/// The steps with their times.
fn timed(steps: &[Step]) -> impl Iterator<Item = (Micros, Step)> {
    steps.iter().scan(SECOND, |now, step| {
        *now += step.pause;
        Some((*now, *step))
    })
}

proptest! {
    #[test]
    fn admits_the_first_packet_in_ten_seconds(steps in steps(8, 2)) {
        // All sixteen pairs collide, but the set has room for them.
        let mut budgets = Budgets::new(WAYS, 1, RATES, BuildColliding::default());
        let mut last: BTreeMap<(u32, u16), Micros> = BTreeMap::new();
        for (now, Step { interface, address, .. }) in timed(&steps) {
            let admitted = budgets.admit_known(interface, mac(address), now);
            let last = last.entry((interface, address)).or_default();
            prop_assert!(admitted || now - *last < FIRST_INTERVAL, "{now}");
            if admitted {
                *last = now;
            }
        }
    }

    #[test]
    fn interfaces_are_independent(steps in steps(40, 6)) {
        let (mut alone, mut together) = (budgets(), budgets());
        for (now, Step { interface, address, .. }) in timed(&steps) {
            let admit = |budgets: &mut Budgets<_>| match address % 4 {
                0 => budgets.admit_unknown(interface, now),
                1 => budgets.admit_copy(interface, now),
                _ => budgets.admit_known(interface, mac(address), now),
            };
            let admitted = admit(&mut together);
            if interface == 0 {
                prop_assert_eq!(admitted, admit(&mut alone));
            }
        }
    }

    #[test]
    fn admits_no_more_than_the_rates_allow(steps in steps(300, 2)) {
        let mut budgets = budgets();
        let mut by_pair: BTreeMap<(u32, u16), u64> = BTreeMap::new();
        let mut addresses = [HashSet::new(), HashSet::new()];
        let mut end = SECOND;
        for (now, Step { interface, address, .. }) in timed(&steps) {
            end = now;
            if budgets.admit_known(interface, mac(address), now) {
                *by_pair.entry((interface, address)).or_default() += 1;
            }
            addresses[interface as usize].insert(address);
        }
        let elapsed = end - SECOND;
        let firsts = 1 + elapsed / FIRST_INTERVAL;
        let worth = |rate: u32| u64::from(rate) + elapsed * u64::from(rate) / SECOND;
        for (pair, admitted) in &by_pair {
            prop_assert!(*admitted <= firsts + worth(RATES.address), "{pair:?}: {admitted}");
        }
        for (interface, addresses) in (0..).zip(&addresses) {
            let admitted: u64 = by_pair.iter().filter(|((on, _), _)| *on == interface).map(|(_, n)| n).sum();
            prop_assert!(admitted <= addresses.len() as u64 * firsts + worth(RATES.interface));
        }
    }
}

#[test]
fn limits_a_flood_for_known_addresses() {
    // 7,000 packets per second for 1,000 addresses, for twenty seconds.
    let mut budgets = Budgets::default_size(RATES, RandomState::new());
    let packets = 140_000_u64;
    let admitted = (0..packets)
        .filter(|n| budgets.admit_known(2, mac(u16::try_from(n % 1000).unwrap()), SECOND + n * SECOND / 7000))
        .count();
    // First packets: 1,000 addresses, twice in twenty seconds. Others: 100 per second, and 100 in advance.
    assert!((2000..=2000 + 21 * 100).contains(&admitted), "{admitted}");
}

#[test]
fn a_flood_does_not_affect_the_same_address_on_another_interface() {
    let mut budgets = budgets();
    let mut genuine = 0;
    for n in 0..200_000_u64 {
        let now = SECOND + n * 100;
        let _ = budgets.admit_known(2, mac(1), now);
        // Ten packets per second, the budget of one address.
        if n.is_multiple_of(1000) {
            genuine += usize::from(budgets.admit_known(3, mac(1), now));
        }
    }
    assert_eq!(genuine, 200);
}

#[test]
fn a_full_table_makes_room_for_the_interface_with_the_fewest_entries() {
    let mut budgets = Budgets::new(WAYS, 64, RATES, BuildColliding::default());
    let flood = |budgets: &mut Budgets<_>, interface| {
        (0..5000).filter(|n| budgets.admit_known(interface, mac(*n), SECOND)).count()
    };
    // Addresses without an entry share the interface's budget.
    assert_eq!(flood(&mut budgets, 2), WAYS + RATES.interface as usize);
    // Another interface's packets are admitted, and its flood gets half of the slots.
    assert!(budgets.admit_known(3, mac(77), SECOND));
    let _ = flood(&mut budgets, 3);
    // The first flood continues and does not displace the other interface's entries: packets for address 77 are not
    // first packets.
    let _ = flood(&mut budgets, 2);
    let again = (0..200).filter(|_| budgets.admit_known(3, mac(77), SECOND)).count();
    assert_eq!(
        again, 0,
        "the interface's budget is exhausted, and the first packet for the address was recorded"
    );
}

#[test]
fn interfaces_with_equal_shares_do_not_displace_entries() {
    let mut budgets = Budgets::new(WAYS, 1024, RATES, BuildColliding::default());
    for interface in 0..16 {
        assert!(budgets.admit_known(interface, mac(1), SECOND));
    }
    for round in 0..50 {
        for interface in 16..32 {
            // There is no room for the address, and perhaps none for the interface.
            let _ = budgets.admit_known(interface, mac(round), SECOND);
        }
    }
    // No first packet was forgotten.
    for interface in 0..16 {
        assert!(
            !budgets.pairs.entry(Pair { interface, address: mac(1) }, SECOND).unwrap().allows_first(SECOND)
        );
    }
}

#[test]
fn interfaces_without_room_share_one_budget() {
    let mut budgets = Budgets::new(WAYS, WAYS, RATES, BuildColliding::default());
    let admitted = (0..1000).filter(|interface| budgets.admit_unknown(*interface, SECOND)).count();
    assert_eq!(admitted, WAYS + 5);
    // Two seconds later, idle interfaces make room.
    assert!(budgets.admit_unknown(2000, 3 * SECOND));
}

#[test]
fn unknown_addresses_and_copies_share_one_budget_each_on_each_interface() {
    let mut budgets = budgets();
    for interface in [1, 2] {
        assert_eq!((0..100).filter(|_| budgets.admit_unknown(interface, SECOND)).count(), 5);
        assert_eq!((0..100).filter(|_| budgets.admit_known(interface, mac(1), SECOND)).count(), 11);
        assert_eq!((0..1000).filter(|_| budgets.admit_copy(interface, SECOND)).count(), 100);
    }
    budgets.set_rates(Rates { unknown: 0, ..RATES });
    assert!(!budgets.admit_unknown(1, 100 * SECOND));
}
