//! Which packets are copies of one that was just announced.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wakevirt_protocol::{Carrier, MacAddr};

use crate::packets::key::Key;

/// Packets that are kept at most. Of one that was forgotten early, a copy is announced again.
const MOST: usize = 16_384;

/// Who sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Mac(Option<MacAddr>),
    Ip(IpAddr),
}

impl From<&Carrier> for Source {
    fn from(carrier: &Carrier) -> Self {
        match carrier {
            Carrier::Ethernet { source, .. } => Self::Mac(*source),
            Carrier::Udp4(path) => Self::Ip(path.source.into()),
            Carrier::Udp6(path) => Self::Ip(path.source.into()),
        }
    }
}

/// The packets that were announced within the window.
///
/// The window begins with the announcement and does not slide: a sender that never stops is
/// announced once in each window.
#[derive(Debug, Default)]
pub struct Recent {
    sequences: HashMap<(Key, Source), u64>,
    /// What is in `sequences`, in the order in which it was announced.
    order: VecDeque<(Instant, (Key, Source))>,
}

impl Recent {
    /// The sequence of the announced packet that this one is a copy of.
    pub fn original(&mut self, key: Key, carrier: &Carrier, window: Duration, now: Instant) -> Option<u64> {
        while self.order.front().is_some_and(|(announced, _)| now.duration_since(*announced) >= window) {
            self.forget_oldest();
        }
        self.sequences.get(&(key, carrier.into())).copied()
    }

    /// The packet, which is no copy, was announced under this sequence.
    pub fn announced(&mut self, key: Key, carrier: &Carrier, sequence: u64, now: Instant) {
        if self.order.len() >= MOST {
            self.forget_oldest();
        }
        let key = (key, carrier.into());
        self.sequences.insert(key, sequence);
        self.order.push_back((now, key));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.sequences.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_rather_than_grow() {
        let (mut recent, now, window) = (Recent::default(), Instant::now(), Duration::from_secs(3600));
        let carrier = Carrier::Ethernet { ethertype: None, source: None };
        let key = |interface| Key { target: MacAddr::new([2; 6]), interface, vlan: None, password: None };
        let most = u32::try_from(MOST).unwrap();
        for n in 0..2 * most {
            recent.announced(key(n), &carrier, n.into(), now);
        }
        assert_eq!((recent.order.len(), recent.sequences.len()), (MOST, MOST));
        assert_eq!(recent.original(key(most - 1), &carrier, window, now), None);
        assert_eq!(recent.original(key(most), &carrier, window, now), Some(most.into()));
        assert_eq!(recent.original(key(most), &carrier, window, now + window), None);
        assert!(recent.sequences.is_empty());
    }
}
