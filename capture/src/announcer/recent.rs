//! Which packets are copies of one that was just announced.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wakevirt_protocol::{Carrier, Heard, MacAddr};

/// What copies have in common: target, password, ingress interface and source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    target: MacAddr,
    /// A keyed hash of the password, so that no second copy of it has to be wiped.
    password: Option<u64>,
    interface: u32,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Mac(Option<MacAddr>),
    Ip(IpAddr),
}

/// The packets that were announced within the window.
///
/// The window begins with the announcement and does not slide: a sender that never stops is
/// announced once in each window. What is announced is limited, and so is what is kept here.
#[derive(Debug, Default)]
pub struct Recent {
    hasher: RandomState,
    sequences: HashMap<Key, u64>,
    /// The keys, in the order in which they were announced.
    order: VecDeque<(Instant, Key)>,
}

impl Recent {
    /// The sequence of the announced packet that this one is a copy of.
    pub fn original(&mut self, heard: &Heard, interface: u32, window: Duration, now: Instant) -> Option<u64> {
        while let Some((announced, key)) = self.order.front()
            && now.duration_since(*announced) >= window
        {
            self.sequences.remove(key);
            self.order.pop_front();
        }
        self.sequences.get(&self.key(heard, interface)).copied()
    }

    /// The packet was announced under this sequence.
    pub fn announced(&mut self, heard: &Heard, interface: u32, sequence: u64, now: Instant) {
        let key = self.key(heard, interface);
        self.sequences.insert(key, sequence);
        self.order.push_back((now, key));
    }

    fn key(&self, heard: &Heard, interface: u32) -> Key {
        let source = match &heard.carrier {
            Carrier::Ethernet { source, .. } => Source::Mac(*source),
            Carrier::Udp4(path) => Source::Ip(path.source.into()),
            Carrier::Udp6(path) => Source::Ip(path.source.into()),
        };
        let password = heard.magic.password().map(|password| self.hasher.hash_one(password));
        Key { target: heard.magic.target(), password, interface, source }
    }
}
