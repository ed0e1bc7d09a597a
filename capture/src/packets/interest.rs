//! Who is interested in which MAC addresses.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;

/// How long an interest outlives the connection of who named it.
pub const LINGER: Duration = Duration::from_secs(600);

/// The most addresses that are kept, for all callers together.
pub const MOST: usize = 100_000;

/// The most callers that are kept, those that have gone included.
pub const MOST_CALLERS: usize = 1024;

/// The interests of every caller.
///
/// Nothing here looks through all callers: whatever ends is found at one end of a queue.
#[derive(Debug, Default)]
pub struct Interests {
    /// Who is on the bus, under the unique name of the connection.
    present: HashMap<String, BTreeSet<MacAddr>>,
    /// What those wanted who have gone, the longest gone first.
    gone: VecDeque<(Instant, BTreeSet<MacAddr>)>,
    /// How many callers want each address.
    addresses: HashMap<MacAddr, usize>,
    /// How many addresses all callers have together, those of several counted for each.
    total: usize,
    /// How many of these are of callers who have gone.
    lingering: usize,
}

impl Interests {
    /// Replaces what the caller is interested in.
    ///
    /// Callers that have gone make room for it, the longest gone first.
    ///
    /// # Errors
    /// [`TooMany`], and the caller's earlier interest stays.
    pub fn set(&mut self, caller: &str, wanted: BTreeSet<MacAddr>, now: Instant) -> Result<(), TooMany> {
        self.expire(now);
        let had = self.present.get(caller);
        let others = self.present.len() - usize::from(had.is_some());
        let had = had.map_or(0, BTreeSet::len);
        if others >= MOST_CALLERS && !wanted.is_empty() {
            return Err(TooMany::Callers);
        }
        if self.total - self.lingering - had + wanted.len() > MOST {
            return Err(TooMany::Addresses);
        }
        // Nobody is forgotten for what is refused.
        while self.total - had + wanted.len() > MOST || others + self.gone.len() >= MOST_CALLERS {
            if !self.forget_longest_gone() {
                break;
            }
        }
        for address in &wanted {
            *self.addresses.entry(*address).or_default() += 1;
        }
        self.total += wanted.len();
        let earlier = self.present.remove(caller);
        self.forget(&earlier.unwrap_or_default());
        if !wanted.is_empty() {
            self.present.insert(caller.to_owned(), wanted);
        }
        Ok(())
    }

    /// The caller's connection has closed.
    pub fn disconnected(&mut self, caller: &str, now: Instant) {
        if let Some(wanted) = self.present.remove(caller) {
            self.lingering += wanted.len();
            self.gone.push_back((now, wanted));
        }
    }

    /// Every connection has closed: the bus has gone.
    pub fn all_disconnected(&mut self, now: Instant) {
        self.gone.extend(self.present.drain().map(|(_, wanted)| (now, wanted)));
        self.lingering = self.total;
    }

    /// Whether somebody is interested in the address.
    pub fn include(&mut self, address: MacAddr, now: Instant) -> bool {
        self.expire(now);
        self.addresses.contains_key(&address)
    }

    /// Forgets the callers that have been gone for long.
    fn expire(&mut self, now: Instant) {
        while self.gone.front().is_some_and(|(gone, _)| now.saturating_duration_since(*gone) >= LINGER) {
            self.forget_longest_gone();
        }
    }

    fn forget_longest_gone(&mut self) -> bool {
        let Some((_, wanted)) = self.gone.pop_front() else { return false };
        self.lingering -= wanted.len();
        self.forget(&wanted);
        true
    }

    fn forget(&mut self, wanted: &BTreeSet<MacAddr>) {
        self.total -= wanted.len();
        for address in wanted {
            match self.addresses.get_mut(address) {
                Some(callers) if *callers > 1 => *callers -= 1,
                _ => drop(self.addresses.remove(address)),
            }
        }
    }
}

/// More than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// More addresses.
    #[error(
        "at most {MOST} MAC addresses are kept for all callers together; name only those of your own domains"
    )]
    Addresses,
    /// More callers.
    #[error(
        "at most {MOST_CALLERS} callers can name MAC addresses; close connections that are not used any more"
    )]
    Callers,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn macs(range: std::ops::Range<u32>) -> BTreeSet<MacAddr> {
        range
            .map(|n| {
                let [a, b, c, d] = n.to_be_bytes();
                MacAddr::new([2, 0, a, b, c, d])
            })
            .collect()
    }

    fn mac(n: u32) -> MacAddr {
        macs(n..n + 1).pop_first().unwrap()
    }

    #[test]
    fn is_replaced_by_its_caller_and_shared_with_others() {
        let now = Instant::now();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..3), now).unwrap();
        interests.set(":1.2", macs(2..4), now).unwrap();
        assert!((0..4).all(|n| interests.include(mac(n), now)));
        interests.set(":1.1", macs(0..1), now).unwrap();
        let still: Vec<u32> = (0..5).filter(|n| interests.include(mac(*n), now)).collect();
        assert_eq!(still, [0, 2, 3]);
        interests.set(":1.2", BTreeSet::new(), now).unwrap();
        assert!(!interests.include(mac(2), now));
        assert_eq!(interests.total, 1);
    }

    #[test]
    fn outlives_its_caller_by_ten_minutes() {
        let start = Instant::now();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..1), start).unwrap();
        let gone = start + Duration::from_secs(3600);
        interests.disconnected(":1.1", gone);
        interests.disconnected(":1.1", gone + Duration::from_secs(300));
        assert!(interests.include(mac(0), gone + Duration::from_secs(599)));
        assert!(!interests.include(mac(0), gone + Duration::from_secs(600)));
        assert_eq!(interests.total, 0);
    }

    #[test]
    fn forgets_who_has_gone_before_it_refuses() {
        let now = Instant::now();
        let most = u32::try_from(MOST).unwrap();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..most / 2), now).unwrap();
        interests.set(":1.2", macs(0..most / 2), now).unwrap();
        assert_eq!(interests.set(":1.3", macs(0..1), now), Err(TooMany::Addresses));
        assert_eq!(interests.set(":1.2", macs(0..most / 2 + 1), now), Err(TooMany::Addresses));
        interests.disconnected(":1.1", now);
        // What is refused in any case costs nobody anything.
        assert_eq!(interests.set(":1.3", macs(0..most / 2 + 1), now), Err(TooMany::Addresses));
        assert_eq!(interests.total, MOST);
        interests.set(":1.3", macs(0..1), now).unwrap();
        assert_eq!((interests.total, interests.lingering), (MOST / 2 + 1, 0));
    }

    #[test]
    fn of_many_callers_the_longest_gone_is_forgotten_first() {
        let start = Instant::now();
        let mut interests = Interests::default();
        // Many who want the same, and one address of each one's own.
        for n in 1..30_000 {
            let now = start + Duration::from_millis(u64::from(n));
            let caller = format!(":1.{n}");
            interests.set(&caller, macs(0..1).union(&macs(n..n + 1)).copied().collect(), now).unwrap();
            interests.disconnected(&caller, now);
            assert!(interests.gone.len() <= MOST_CALLERS);
            assert_eq!(interests.total, 2 * interests.gone.len());
        }
        assert_eq!(interests.addresses.len(), MOST_CALLERS + 1);
        let kept = 30_000 - u32::try_from(MOST_CALLERS).unwrap();
        let now = start + Duration::from_secs(60);
        assert!(interests.include(mac(0), now));
        assert!(interests.include(mac(kept), now) && !interests.include(mac(kept - 1), now));
        interests.set(":2.1", macs(7..8), now + LINGER).unwrap();
        assert_eq!((interests.gone.len(), interests.total, interests.addresses.len()), (0, 1, 1));
    }

    #[test]
    fn of_too_many_callers_the_last_is_refused() {
        let now = Instant::now();
        let mut interests = Interests::default();
        for n in 0..MOST_CALLERS {
            interests.set(&format!(":1.{n}"), macs(0..1), now).unwrap();
        }
        assert_eq!(interests.set(":2.1", macs(1..2), now), Err(TooMany::Callers));
        // Who is among them may change its mind, and who leaves makes room.
        interests.set(":1.5", macs(1..3), now).unwrap();
        interests.disconnected(":1.6", now);
        interests.set(":2.1", macs(1..2), now).unwrap();
        assert_eq!(interests.total, MOST_CALLERS + 1);
        interests.all_disconnected(now);
        assert_eq!((interests.present.len(), interests.gone.len()), (0, MOST_CALLERS));
    }
}
