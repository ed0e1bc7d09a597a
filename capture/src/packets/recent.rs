//! Detects copies of packets that were announced recently.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use wakevirt_protocol::{Carrier, Origin};

use crate::packets::key::Key;

/// The maximum number of packets. If a packet was removed because of this limit, a copy of it is announced.
const MAX_PACKETS: usize = 16_384;

/// The packets that were announced within the deduplication window.
///
/// The window starts with the announcement, and copies do not extend it: packets from a continuous sender are announced
/// once per window.
#[derive(Debug, Default)]
pub struct Recent {
    sequences: HashMap<(Key, Origin), u64>,
    /// The keys of `sequences`, in the order of announcement.
    order: VecDeque<(Instant, (Key, Origin))>,
}

impl Recent {
    /// The sequence of the announced packet of which this packet is a copy; `None` if it is not a copy.
    pub fn original(&mut self, key: Key, carrier: &Carrier, window: Duration, now: Instant) -> Option<u64> {
        while self.order.front().is_some_and(|(announced, _)| now.duration_since(*announced) >= window) {
            self.remove_oldest();
        }
        self.sequences.get(&(key, carrier.origin())).copied()
    }

    /// Records that a packet that is not a copy was announced with this sequence.
    pub fn announced(&mut self, key: Key, carrier: &Carrier, sequence: u64, now: Instant) {
        if self.order.len() >= MAX_PACKETS {
            self.remove_oldest();
        }
        let key = (key, carrier.origin());
        self.sequences.insert(key, sequence);
        self.order.push_back((now, key));
    }

    fn remove_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.sequences.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use wakevirt_protocol::MacAddr;

    use super::*;

    #[test]
    fn removes_the_oldest_packet_at_the_limit() {
        let (mut recent, now, window) = (Recent::default(), Instant::now(), Duration::from_secs(3600));
        let carrier = Carrier::Ethernet { ethertype: None, source: None };
        let key = |interface| Key { target: MacAddr::new([2; 6]), interface, vlan: None, password: None };
        let limit = u32::try_from(MAX_PACKETS).unwrap();
        for n in 0..2 * limit {
            recent.announced(key(n), &carrier, n.into(), now);
        }
        assert_eq!((recent.order.len(), recent.sequences.len()), (MAX_PACKETS, MAX_PACKETS));
        assert_eq!(recent.original(key(limit - 1), &carrier, window, now), None);
        assert_eq!(recent.original(key(limit), &carrier, window, now), Some(limit.into()));
        assert_eq!(recent.original(key(limit), &carrier, window, now + window), None);
        assert!(recent.sequences.is_empty());
    }
}
