//! What becomes of a magic packet that the sniffer heard: announced, a copy, or one too many.
//!
//! Nothing here does I/O or asks for the time; the bus adapter and the sniffer's messages lie on
//! either side.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wakevirt_protocol::{Carrier, Heard, MacAddr, Password, Sighting, Stamp};

use super::interest::{Interests, TooMany};
use super::limit::Bucket;
use super::recent::Recent;
use super::ring::{Announcement, Remembered, Ring};

/// Signals per second for each MAC address that somebody is interested in.
///
/// Several times what a person's repeated attempts come to; a sender's own repetitions are copies.
pub const INTEREST_RATE: u32 = 10;

/// What the configuration says about announcing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long copies of a packet are not announced.
    pub deduplicate: Duration,
    /// Packets that each of the two rings remembers.
    pub remember: usize,
    /// Signals per second for MAC addresses that nobody is interested in, all together.
    pub limit: u32,
}

/// What became of a magic packet.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is to be announced.
    Announce {
        /// As this.
        announcement: Arc<Announcement>,
        /// Whether somebody is interested in its target.
        of_interest: bool,
    },
    /// It is a copy of one that was announced.
    Duplicate,
    /// There were too many.
    Limited,
}

/// A transport, as counters name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A frame whose payload holds the magic packet.
    Ethernet,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

/// How many magic packets met which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fates {
    /// Heard.
    pub received: u64,
    /// Copies.
    pub duplicates: u64,
    /// Too many.
    pub limited: u64,
}

/// Numbers, limits and remembers magic packets.
#[derive(Debug)]
pub struct Ledger {
    rules: Rules,
    /// Random, so that subscribers notice a restart.
    epoch: String,
    sequence: u64,
    recent: Recent,
    interests: Interests,
    others: Bucket,
    of_interest: Ring,
    of_others: Ring,
    ethernet: Fates,
    udp4: Fates,
    udp6: Fates,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(rules: Rules, epoch: String) -> Self {
        Self {
            rules,
            epoch,
            sequence: 0,
            recent: Recent::default(),
            interests: Interests::default(),
            others: Bucket::default(),
            of_interest: Ring::default(),
            of_others: Ring::default(),
            ethernet: Fates::default(),
            udp4: Fates::default(),
            udp6: Fates::default(),
        }
    }

    /// Goes on with other rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        self.of_interest.shrink(rules.remember);
        self.of_others.shrink(rules.remember);
    }

    /// Decides about one magic packet that was heard on the interface of this name.
    pub fn hear(
        &mut self,
        sighting: Sighting,
        name: Option<Arc<str>>,
        stamp: Stamp,
        now: Instant,
    ) -> Verdict {
        let Sighting { heard, interface } = sighting;
        self.fates(&heard).received += 1;
        if let Some(sequence) = self.recent.original(&heard, interface, self.rules.deduplicate, now) {
            self.fates(&heard).duplicates += 1;
            self.count_copy(sequence);
            return Verdict::Duplicate;
        }
        let bucket = self.interests.bucket(heard.magic.target(), now);
        let of_interest = bucket.is_some();
        let within = match bucket {
            Some(bucket) => bucket.take(INTEREST_RATE, now),
            None => self.others.take(self.rules.limit, now),
        };
        if !within {
            self.fates(&heard).limited += 1;
            return Verdict::Limited;
        }
        self.sequence += 1;
        self.recent.announced(&heard, interface, self.sequence, now);
        let announcement = Arc::new(Announcement { sequence: self.sequence, heard, interface: name, stamp });
        let ring = if of_interest { &mut self.of_interest } else { &mut self.of_others };
        ring.push(Arc::clone(&announcement), self.rules.remember);
        Verdict::Announce { announcement, of_interest }
    }

    /// The remembered packets that a subscriber has not seen, oldest first, and whether there were
    /// more. Another epoch's sequence says nothing.
    #[must_use]
    pub fn replay(&self, epoch: &str, after: u64) -> (bool, Vec<Remembered>) {
        let after = if epoch == self.epoch { after } else { 0 };
        let lost = self.of_interest.lost_after(after) || self.of_others.lost_after(after);
        let rings = self.of_interest.after(after).chain(self.of_others.after(after));
        let mut packets: Vec<Remembered> = rings.cloned().collect();
        packets.sort_unstable_by_key(|packet| packet.announcement.sequence);
        (lost, packets)
    }

    /// The password that came with a packet: `None` where the packet is not remembered, and inside
    /// of it `None` where it had no password.
    #[must_use]
    pub fn password(&mut self, epoch: &str, sequence: u64) -> Option<Option<Password>> {
        if epoch != self.epoch {
            return None;
        }
        let packet = self.of_interest.get_mut(sequence).or_else(|| self.of_others.get_mut(sequence))?;
        Some(packet.announcement.heard.magic.password().cloned())
    }

    /// Replaces what a caller is interested in.
    ///
    /// # Errors
    /// [`TooMany`], and nothing is changed.
    pub fn set_interest(
        &mut self,
        caller: &str,
        macs: BTreeSet<MacAddr>,
        now: Instant,
    ) -> Result<(), TooMany> {
        self.interests.set(caller, macs, now)
    }

    /// A caller's connection to the bus has closed.
    pub fn caller_disconnected(&mut self, caller: &str, now: Instant) {
        self.interests.disconnected(caller, now);
    }

    /// The bus has gone, and every caller's connection with it.
    pub fn bus_lost(&mut self, now: Instant) {
        self.interests.all_disconnected(now);
    }

    /// What tells this run of the service from others.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The sequence of the last packet that was announced; 0 where none was.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The counters of a transport.
    #[must_use]
    pub const fn fates_of(&self, transport: Transport) -> Fates {
        match transport {
            Transport::Ethernet => self.ethernet,
            Transport::Udp4 => self.udp4,
            Transport::Udp6 => self.udp6,
        }
    }

    fn fates(&mut self, heard: &Heard) -> &mut Fates {
        match heard.carrier {
            Carrier::Ethernet { .. } => &mut self.ethernet,
            Carrier::Udp4(_) => &mut self.udp4,
            Carrier::Udp6(_) => &mut self.udp6,
        }
    }

    fn count_copy(&mut self, sequence: u64) {
        let packet = self.of_interest.get_mut(sequence).or_else(|| self.of_others.get_mut(sequence));
        if let Some(packet) = packet {
            packet.copies = packet.copies.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests;
