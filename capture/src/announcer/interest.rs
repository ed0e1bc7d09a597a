//! Who is interested in which MAC addresses.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;

use super::limit::Bucket;

/// How long an interest outlives the connection of who named it.
pub const LINGER: Duration = Duration::from_secs(600);

/// The most addresses that are kept, for all callers together.
pub const MOST: usize = 100_000;

/// The interests of every caller, under the unique names of their bus connections.
#[derive(Debug, Default)]
pub struct Interests {
    callers: HashMap<String, Caller>,
    /// Each address that somebody is interested in.
    addresses: HashMap<MacAddr, Address>,
    /// How many addresses all callers have together, those of several counted for each.
    total: usize,
}

#[derive(Debug, Default)]
struct Caller {
    addresses: BTreeSet<MacAddr>,
    /// When its connection closed.
    gone: Option<Instant>,
}

#[derive(Debug, Default)]
struct Address {
    /// How many callers are interested.
    callers: usize,
    bucket: Bucket,
}

impl Interests {
    /// Replaces what the caller is interested in.
    ///
    /// Where that would be too much, callers that have gone are forgotten first, the longest gone
    /// first.
    ///
    /// # Errors
    /// [`TooMany`], and the caller's earlier interest stays.
    pub fn set(&mut self, caller: &str, wanted: BTreeSet<MacAddr>, now: Instant) -> Result<(), TooMany> {
        self.expire(now);
        let had = self.callers.get(caller).map_or(0, |caller| caller.addresses.len());
        while self.total - had + wanted.len() > MOST {
            let gone = self.callers.iter().filter(|(name, _)| *name != caller);
            let longest = gone.filter_map(|(name, caller)| Some((caller.gone?, name))).min();
            let Some((_, name)) = longest else { return Err(TooMany) };
            let name = name.clone();
            self.forget(&name);
        }
        for address in &wanted {
            self.addresses.entry(*address).or_default().callers += 1;
        }
        self.total += wanted.len();
        // The new interest is counted before the old is forgotten, so that buckets stay as they are.
        self.forget(caller);
        if !wanted.is_empty() {
            self.callers.insert(caller.to_owned(), Caller { addresses: wanted, gone: None });
        }
        Ok(())
    }

    /// The caller's connection has closed.
    pub fn disconnected(&mut self, caller: &str, now: Instant) {
        if let Some(caller) = self.callers.get_mut(caller) {
            caller.gone.get_or_insert(now);
        }
    }

    /// Every connection has closed: the bus has gone.
    pub fn all_disconnected(&mut self, now: Instant) {
        for caller in self.callers.values_mut() {
            caller.gone.get_or_insert(now);
        }
    }

    /// The bucket of an address that somebody is interested in.
    pub fn bucket(&mut self, address: MacAddr, now: Instant) -> Option<&mut Bucket> {
        self.expire(now);
        self.addresses.get_mut(&address).map(|address| &mut address.bucket)
    }

    /// Forgets the callers that have been gone for long.
    fn expire(&mut self, now: Instant) {
        let gone = |caller: &Caller| caller.gone.is_some_and(|gone| now.duration_since(gone) >= LINGER);
        // Nearly always there is none, and a caller or two to look at.
        while let Some(name) =
            self.callers.iter().find(|(_, caller)| gone(caller)).map(|(name, _)| name.clone())
        {
            self.forget(&name);
        }
    }

    fn forget(&mut self, caller: &str) {
        let Some(caller) = self.callers.remove(caller) else { return };
        self.total -= caller.addresses.len();
        for address in caller.addresses {
            if let Some(known) = self.addresses.get_mut(&address) {
                known.callers -= 1;
                if known.callers == 0 {
                    self.addresses.remove(&address);
                }
            }
        }
    }
}

/// More addresses than are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no more than {MOST} MAC addresses are kept for all callers together; name only those of your own domains"
)]
pub struct TooMany;

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
        assert!((0..4).all(|n| interests.bucket(mac(n), now).is_some()));
        interests.set(":1.1", macs(0..1), now).unwrap();
        let still: Vec<u32> = (0..5).filter(|n| interests.bucket(mac(*n), now).is_some()).collect();
        assert_eq!(still, [0, 2, 3]);
        interests.set(":1.2", BTreeSet::new(), now).unwrap();
        assert!(interests.bucket(mac(2), now).is_none());
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
        assert!(interests.bucket(mac(0), gone + Duration::from_secs(599)).is_some());
        assert!(interests.bucket(mac(0), gone + Duration::from_secs(600)).is_none());
        assert_eq!(interests.total, 0);
    }

    #[test]
    fn keeps_a_bucket_as_it_is_when_the_same_interest_is_named_again() {
        let now = Instant::now();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..1), now).unwrap();
        assert!(interests.bucket(mac(0), now).unwrap().take(1, now));
        interests.set(":1.1", macs(0..2), now).unwrap();
        assert!(!interests.bucket(mac(0), now).unwrap().take(1, now));
    }

    #[test]
    fn forgets_who_has_gone_before_it_refuses() {
        let now = Instant::now();
        let most = u32::try_from(MOST).unwrap();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..most / 2), now).unwrap();
        interests.set(":1.2", macs(0..most / 2), now).unwrap();
        assert_eq!(interests.set(":1.3", macs(0..1), now), Err(TooMany));
        assert_eq!(interests.set(":1.2", macs(0..most / 2 + 1), now), Err(TooMany));
        interests.disconnected(":1.1", now);
        interests.set(":1.3", macs(0..1), now).unwrap();
        assert_eq!(interests.total, MOST / 2 + 1);
    }
}
