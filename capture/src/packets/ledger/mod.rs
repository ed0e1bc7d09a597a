//! What becomes of a magic packet that the sniffer captured: announced, a copy, or one too many.
//!
//! Nothing here does I/O or asks for the time; the bus adapter and the sniffer's messages are on
//! either side.

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wakevirt_protocol::budget::{Budgets, Micros};
use wakevirt_protocol::{CapturedPacket, Carrier, MacAddr, ParsedPacket, Password, Stamp};

use crate::network::links::Interface;
use crate::packets::interest::{Interests, TooMany};
use crate::packets::key::Key;
use crate::packets::recent::Recent;
use crate::packets::ring::{Announcement, Entry, Remembered};
use crate::packets::store::Store;

/// Packets for MAC addresses of interest that wait to be published, at most.
///
/// The first packets for some thousand addresses on one interface have room at once. On a bus that
/// works each waits for a moment; a bus that is away for long fills this.
const QUEUE_OF_INTEREST: usize = 8192;

/// Packets for other MAC addresses that wait to be published, at most.
const QUEUE_OF_OTHERS: usize = 1024;

/// What the configuration says about announcing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long copies of a packet are not announced.
    pub deduplicate: Duration,
    /// Published packets that each of the two rings remembers.
    pub remember: usize,
    /// Signals per second and ingress interface for MAC addresses that nobody is interested in.
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
    /// There were too many: on its interface, for its address, or for a bus that is away.
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
    /// ParsedPacket.
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
    /// The sequence up to which everything was published, or is left to `replay`.
    published: u64,
    /// Seeds what is compared by hash.
    hasher: RandomState,
    recent: Recent,
    interests: Interests,
    budgets: Budgets<RandomState>,
    /// When the first packet came: what the budgets count time from.
    start: Option<Instant>,
    of_interest: Store,
    of_others: Store,
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
            published: 0,
            hasher: RandomState::new(),
            recent: Recent::default(),
            interests: Interests::default(),
            budgets: Budgets::default_size(RandomState::new()),
            start: None,
            of_interest: Store::new(QUEUE_OF_INTEREST),
            of_others: Store::new(QUEUE_OF_OTHERS),
            ethernet: Fates::default(),
            udp4: Fates::default(),
            udp6: Fates::default(),
        }
    }

    /// Goes on with other rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        for store in [&mut self.of_interest, &mut self.of_others] {
            store.shrink(rules.remember);
        }
    }

    /// Decides about one magic packet that came in on the interface with these names.
    ///
    /// The sniffer may invent interfaces, and each has budgets of its own: where the index is not one
    /// that the kernel told, it has to be 0.
    pub fn hear(
        &mut self,
        sighting: CapturedPacket,
        names: Option<Arc<Interface>>,
        stamp: Stamp,
        now: Instant,
    ) -> Verdict {
        let CapturedPacket { packet: heard, interface } = sighting;
        self.fates(&heard).received += 1;
        let key = Key::of(&heard, interface, &self.hasher);
        let original = self.recent.original(key, &heard.carrier, self.rules.deduplicate, now);
        if let Some(sequence) = original {
            self.fates(&heard).duplicates += 1;
            self.count_copy(sequence);
            return Verdict::Duplicate;
        }
        let of_interest = self.interests.include(key.target, now);
        if !self.admit(&key, of_interest, now) {
            self.fates(&heard).limited += 1;
            return Verdict::Limited;
        }
        self.sequence += 1;
        self.recent.announced(key, &heard.carrier, self.sequence, now);
        let announcement =
            Arc::new(Announcement { sequence: self.sequence, packet: heard, interface: names, stamp });
        let remembered = Remembered { announcement: Arc::clone(&announcement), copies: 1 };
        let store = if of_interest { &mut self.of_interest } else { &mut self.of_others };
        store.push(Entry { remembered, key }, now);
        Verdict::Announce { announcement, of_interest }
    }

    /// Whether one more of these may be announced. What finds no room uses up no budget.
    fn admit(&mut self, key: &Key, of_interest: bool, now: Instant) -> bool {
        let at = self.since_start(now);
        let store = if of_interest { &mut self.of_interest } else { &mut self.of_others };
        store.settle(self.published, self.rules.remember, now);
        store.has_room(key)
            && if of_interest {
                self.budgets.admit_known(key.interface, key.target, at)
            } else {
                self.budgets.admit_unknown(key.interface, self.rules.limit, at)
            }
    }

    fn since_start(&mut self, now: Instant) -> Micros {
        let start = *self.start.get_or_insert(now);
        u64::try_from(now.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
    }

    /// Everything up to this sequence was published, or is left to [`Self::replay`]: from now on the
    /// rings may forget it.
    pub fn published(&mut self, sequence: u64, now: Instant) {
        self.published = self.published.max(sequence);
        for store in [&mut self.of_interest, &mut self.of_others] {
            store.settle(self.published, self.rules.remember, now);
        }
    }

    /// The remembered packets that a subscriber has not seen, oldest first and so many at most, and
    /// whether some are forgotten. Another epoch's sequence says nothing.
    #[must_use]
    pub fn replay(&self, epoch: &str, after: u64, most: usize) -> (bool, Vec<Remembered>) {
        let after = if epoch == self.epoch { after } else { 0 };
        let lost = self.of_interest.lost_after(after) || self.of_others.lost_after(after);
        let kept = self.of_interest.after(after).take(most).chain(self.of_others.after(after).take(most));
        let mut packets: Vec<Remembered> = kept.map(|entry| entry.remembered.clone()).collect();
        packets.sort_unstable_by_key(|packet| packet.announcement.sequence);
        packets.truncate(most);
        (lost, packets)
    }

    /// The password that came with a packet: `None` where the packet is not remembered, and inside
    /// of it `None` where it had no password.
    #[must_use]
    pub fn password(&mut self, epoch: &str, sequence: u64) -> Option<Option<Password>> {
        if epoch != self.epoch {
            return None;
        }
        let entry = self.of_interest.get_mut(sequence).or_else(|| self.of_others.get_mut(sequence))?;
        Some(entry.remembered.announcement.packet.magic.password().cloned())
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

    fn fates(&mut self, heard: &ParsedPacket) -> &mut Fates {
        match heard.carrier {
            Carrier::Ethernet { .. } => &mut self.ethernet,
            Carrier::Udp4(_) => &mut self.udp4,
            Carrier::Udp6(_) => &mut self.udp6,
        }
    }

    fn count_copy(&mut self, sequence: u64) {
        let entry = self.of_interest.get_mut(sequence).or_else(|| self.of_others.get_mut(sequence));
        if let Some(Entry { remembered, .. }) = entry {
            remembered.copies = remembered.copies.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests;
