//! The MAC addresses in which callers have registered an interest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::sniffer::{BATCH, MAX_ADDRESSES};

use crate::packets::difference::Difference;

/// How long a caller's interest is retained after its connection has closed.
pub const RETENTION: Duration = Duration::from_secs(600);

/// The maximum number of callers, including disconnected ones.
pub const MAX_CALLERS: usize = 1024;

/// The interests of all callers: at most [`MAX_ADDRESSES`] addresses.
///
/// No operation except `disconnect_all` iterates over all callers: the oldest disconnected one is at the front of a queue.
#[derive(Debug, Default)]
pub struct Interests {
    /// The addresses of each connected caller, by the unique name of its connection.
    connected: HashMap<String, BTreeSet<MacAddr>>,
    /// The addresses of disconnected callers, in the order in which they disconnected.
    disconnected: VecDeque<(Instant, BTreeSet<MacAddr>)>,
    /// The number of callers that are interested in each address.
    addresses: HashMap<MacAddr, usize>,
    /// What the sniffer does not know yet of `addresses`.
    unsent: Difference<MacAddr>,
    /// The total number of addresses that callers have registered. An address counts once for each caller.
    total: usize,
    /// The same total for disconnected callers.
    total_disconnected: usize,
}

impl Interests {
    /// Replaces the interest of a caller.
    ///
    /// If a limit is reached, removes disconnected callers, in the order in which they disconnected.
    ///
    /// # Errors
    /// [`TooMany`]. The caller's previous interest stays in effect.
    pub fn set(&mut self, caller: &str, addresses: BTreeSet<MacAddr>, now: Instant) -> Result<(), TooMany> {
        self.expire(now);
        let previous = self.connected.get(caller);
        let others = self.connected.len() - usize::from(previous.is_some());
        let previous = previous.map_or(0, BTreeSet::len);
        if others >= MAX_CALLERS && !addresses.is_empty() {
            return Err(TooMany::Callers);
        }
        if self.total - self.total_disconnected - previous + addresses.len() > MAX_ADDRESSES {
            return Err(TooMany::Addresses);
        }
        // The call succeeds from here on, so disconnected callers can be removed for it.
        while self.total - previous + addresses.len() > MAX_ADDRESSES
            || others + self.disconnected.len() >= MAX_CALLERS
        {
            if !self.remove_oldest_disconnected() {
                break;
            }
        }
        for address in &addresses {
            *self.addresses.entry(*address).or_default() += 1;
            self.unsent.set(*address, true);
        }
        self.total += addresses.len();
        let previous = self.connected.remove(caller);
        self.release(&previous.unwrap_or_default());
        if !addresses.is_empty() {
            self.connected.insert(caller.to_owned(), addresses);
        }
        Ok(())
    }

    /// Records that a caller's connection has closed.
    pub fn disconnect(&mut self, caller: &str, now: Instant) {
        if let Some(addresses) = self.connected.remove(caller) {
            self.total_disconnected += addresses.len();
            self.disconnected.push_back((now, addresses));
        }
    }

    /// Records that all connections have closed, because the bus has exited.
    pub fn disconnect_all(&mut self, now: Instant) {
        self.disconnected.extend(self.connected.drain().map(|(_, addresses)| (now, addresses)));
        self.total_disconnected = self.total;
    }

    /// Whether a caller is interested in the address.
    pub fn contains(&mut self, address: MacAddr, now: Instant) -> bool {
        self.expire(now);
        self.addresses.contains_key(&address)
    }

    /// Takes addresses of which the sniffer does not know yet that callers are interested in them, or no longer are. See
    /// [`Difference::next_batch`].
    pub fn next_batch(&mut self, now: Instant) -> Option<(bool, [MacAddr; BATCH])> {
        self.expire(now);
        self.unsent.next_batch()
    }

    /// Removes the callers whose retention has expired.
    fn expire(&mut self, now: Instant) {
        while self
            .disconnected
            .front()
            .is_some_and(|(since, _)| now.saturating_duration_since(*since) >= RETENTION)
        {
            self.remove_oldest_disconnected();
        }
    }

    fn remove_oldest_disconnected(&mut self) -> bool {
        let Some((_, addresses)) = self.disconnected.pop_front() else { return false };
        self.total_disconnected -= addresses.len();
        self.release(&addresses);
        true
    }

    /// Subtracts the addresses of one caller from the counts.
    fn release(&mut self, addresses: &BTreeSet<MacAddr>) {
        self.total -= addresses.len();
        for address in addresses {
            match self.addresses.get_mut(address) {
                Some(callers) if *callers > 1 => *callers -= 1,
                _ => {
                    self.addresses.remove(address);
                    self.unsent.set(*address, false);
                }
            }
        }
    }
}

/// A limit of [`Interests`] is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// [`MAX_ADDRESSES`].
    #[error(
        "all callers together can register at most {MAX_ADDRESSES} MAC addresses; register only those of your own domains"
    )]
    Addresses,
    /// [`MAX_CALLERS`].
    #[error("at most {MAX_CALLERS} callers can register MAC addresses; close unused connections")]
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
    fn a_caller_replaces_its_interest_and_shares_addresses_with_others() {
        let now = Instant::now();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..3), now).unwrap();
        interests.set(":1.2", macs(2..4), now).unwrap();
        assert!((0..4).all(|n| interests.contains(mac(n), now)));
        interests.set(":1.1", macs(0..1), now).unwrap();
        let remaining: Vec<u32> = (0..5).filter(|n| interests.contains(mac(*n), now)).collect();
        assert_eq!(remaining, [0, 2, 3]);
        interests.set(":1.2", BTreeSet::new(), now).unwrap();
        assert!(!interests.contains(mac(2), now));
        assert_eq!(interests.total, 1);
    }

    #[test]
    fn an_interest_is_retained_for_ten_minutes_after_its_caller_disconnects() {
        let start = Instant::now();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..1), start).unwrap();
        let closed = start + Duration::from_secs(3600);
        interests.disconnect(":1.1", closed);
        interests.disconnect(":1.1", closed + Duration::from_secs(300));
        assert!(interests.contains(mac(0), closed + Duration::from_secs(599)));
        assert!(!interests.contains(mac(0), closed + Duration::from_secs(600)));
        assert_eq!(interests.total, 0);
    }

    #[test]
    fn removes_disconnected_callers_before_it_refuses_a_call() {
        let now = Instant::now();
        let limit = u32::try_from(MAX_ADDRESSES).unwrap();
        let mut interests = Interests::default();
        interests.set(":1.1", macs(0..limit / 2), now).unwrap();
        interests.set(":1.2", macs(0..limit / 2), now).unwrap();
        assert_eq!(interests.set(":1.3", macs(0..1), now), Err(TooMany::Addresses));
        assert_eq!(interests.set(":1.2", macs(0..limit / 2 + 1), now), Err(TooMany::Addresses));
        interests.disconnect(":1.1", now);
        // A call that is refused anyway does not remove a caller.
        assert_eq!(interests.set(":1.3", macs(0..limit / 2 + 1), now), Err(TooMany::Addresses));
        assert_eq!(interests.total, MAX_ADDRESSES);
        interests.set(":1.3", macs(0..1), now).unwrap();
        assert_eq!((interests.total, interests.total_disconnected), (MAX_ADDRESSES / 2 + 1, 0));
    }

    #[test]
    fn removes_disconnected_callers_in_the_order_in_which_they_disconnected() {
        let start = Instant::now();
        let mut interests = Interests::default();
        // All callers have one address in common, and each has another address of its own.
        for n in 1..30_000 {
            let now = start + Duration::from_millis(u64::from(n));
            let caller = format!(":1.{n}");
            interests.set(&caller, macs(0..1).union(&macs(n..n + 1)).copied().collect(), now).unwrap();
            interests.disconnect(&caller, now);
            assert!(interests.disconnected.len() <= MAX_CALLERS);
            assert_eq!(interests.total, 2 * interests.disconnected.len());
        }
        assert_eq!(interests.addresses.len(), MAX_CALLERS + 1);
        let oldest = 30_000 - u32::try_from(MAX_CALLERS).unwrap();
        let now = start + Duration::from_secs(60);
        assert!(interests.contains(mac(0), now));
        assert!(interests.contains(mac(oldest), now) && !interests.contains(mac(oldest - 1), now));
        interests.set(":2.1", macs(7..8), now + RETENTION).unwrap();
        assert_eq!((interests.disconnected.len(), interests.total, interests.addresses.len()), (0, 1, 1));
    }

    #[test]
    fn refuses_more_callers_than_the_limit() {
        let now = Instant::now();
        let mut interests = Interests::default();
        for n in 0..MAX_CALLERS {
            interests.set(&format!(":1.{n}"), macs(0..1), now).unwrap();
        }
        assert_eq!(interests.set(":2.1", macs(1..2), now), Err(TooMany::Callers));
        // A registered caller can change its interest, and a disconnected one makes room.
        interests.set(":1.5", macs(1..3), now).unwrap();
        interests.disconnect(":1.6", now);
        interests.set(":2.1", macs(1..2), now).unwrap();
        assert_eq!(interests.total, MAX_CALLERS + 1);
        interests.disconnect_all(now);
        assert_eq!((interests.connected.len(), interests.disconnected.len()), (0, MAX_CALLERS));
    }
}
