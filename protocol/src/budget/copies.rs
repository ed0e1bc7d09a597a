//! Detects copies of packets that were admitted shortly before.

use core::hash::{BuildHasher, Hash};

use super::Micros;
use super::bucket::Bucket;
use super::table::{Replaceable, Table, WAYS};

/// How long after an admitted packet another one is its copy, in microseconds.
const WINDOW: Micros = 1_000_000;

/// The number of packets in [`Copies`].
const PACKETS: usize = 4096;

/// Packets that were admitted shortly before, so that a sender that repeats one packet uses up no other budget.
///
/// It allocates memory only when it is created.
#[derive(Debug)]
pub struct Copies<Hasher> {
    /// By the hash of a packet's properties.
    packets: Table<u64, Admitted, Hasher>,
    hasher: Hasher,
}

/// Whether a packet is a copy, and what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum CopyCheck {
    /// It is a copy, and within the rates of copies.
    Admitted,
    /// It is a copy that exceeds a rate of copies.
    Suppressed,
    /// No equal packet was admitted within the last second.
    NotACopy,
}

impl<Hasher: BuildHasher + Clone> Copies<Hasher> {
    /// Creates an empty table. `hasher` must have a random seed.
    #[must_use]
    pub fn new(hasher: Hasher) -> Self {
        Self { packets: Table::new(PACKETS, hasher.clone()), hasher }
    }

    /// Determines whether a packet with these properties is a copy. At most `rate` copies of a packet per second are
    /// admitted, and only if `within_interface` returns true: it counts a copy against the budget that all copies on an
    /// interface share ([`super::Budgets::admit_copy`]).
    pub fn check(
        &mut self,
        properties: &impl Hash,
        rate: u32,
        now: Micros,
        within_interface: impl FnOnce() -> bool,
    ) -> CopyCheck {
        let hash = self.hasher.hash_one(properties);
        let Some(entry) = self.packets.entry(hash, now).filter(|entry| entry.until > now) else {
            return CopyCheck::NotACopy;
        };
        // A copy that the interface's budget suppresses does not count against the packet's budget, and does not extend
        // the time in which further packets are copies.
        let Some(remaining) = entry.bucket.after_one(rate, now).filter(|_| within_interface()) else {
            return CopyCheck::Suppressed;
        };
        *entry = Admitted { until: now.saturating_add(WINDOW), bucket: remaining };
        CopyCheck::Admitted
    }

    /// Records that a packet with these properties, which is not a copy, was admitted.
    pub fn admitted(&mut self, properties: &impl Hash, now: Micros) {
        let hash = self.hasher.hash_one(properties);
        if let Some(entry) = self.packets.entry(hash, now) {
            entry.until = now.saturating_add(WINDOW);
        }
    }
}

/// An admitted packet.
#[derive(Debug, Default)]
struct Admitted {
    /// Until this time, the same packet is a copy.
    until: Micros,
    bucket: Bucket,
}

impl Replaceable<u64> for Admitted {
    fn is_idle(&self, now: Micros) -> bool {
        self.until <= now && self.bucket.is_full(now)
    }

    fn displaced(_: &[(u64, Self); WAYS], _: &u64) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    #[test]
    fn copies_are_admitted_at_their_rate_as_long_as_they_arrive() {
        let mut copies = Copies::new(RandomState::new());
        let mut now = 7 * WINDOW;
        assert_eq!(copies.check(&1, 10, now, || true), CopyCheck::NotACopy);
        copies.admitted(&1, now);
        let mut admitted = 0;
        for _ in 0..30_000 {
            now += WINDOW / 10_000;
            match copies.check(&1, 10, now, || true) {
                CopyCheck::Admitted => admitted += 1,
                CopyCheck::Suppressed => {}
                CopyCheck::NotACopy => panic!("a copy is a new packet"),
            }
        }
        assert!((38..=41).contains(&admitted), "{admitted}");
        assert_eq!(copies.check(&2, 10, now, || true), CopyCheck::NotACopy);
        assert_eq!(copies.check(&1, 10, now + 2 * WINDOW, || true), CopyCheck::NotACopy);
    }

    #[test]
    fn a_copy_that_the_interface_suppresses_does_not_count() {
        let mut copies = Copies::new(RandomState::new());
        let start = 7 * WINDOW;
        copies.admitted(&1, start);
        let end = start + WINDOW;
        for now in (start..end).step_by(1000) {
            assert_eq!(copies.check(&1, 10, now, || false), CopyCheck::Suppressed);
        }
        let admitted =
            (0..100).filter(|_| copies.check(&1, 10, end - 1, || true) == CopyCheck::Admitted).count();
        assert_eq!(admitted, 10);

        copies.admitted(&2, start);
        assert_eq!(copies.check(&2, 10, end - 1, || false), CopyCheck::Suppressed);
        assert_eq!(copies.check(&2, 10, end, || false), CopyCheck::NotACopy);
    }

    #[test]
    fn a_packet_for_which_there_is_no_room_has_no_copies() {
        let mut copies = Copies::new(RandomState::new());
        for packet in 0..100_000 {
            copies.admitted(&packet, WINDOW);
        }
        let known = (0..100_000)
            .filter(|packet| copies.check(packet, 10, WINDOW + 1, || true) != CopyCheck::NotACopy);
        let known = known.count();
        assert!((1000..=PACKETS).contains(&known), "{known}");
    }
}
