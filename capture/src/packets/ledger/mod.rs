//! Decides for each magic packet that the sniffer captured whether to announce it, or to drop it as a copy or because
//! of a limit.
//!
//! The ledger performs no I/O, and receives the time from its callers.

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wakevirt_protocol::budget::{Budgets, Micros, Rates};
use wakevirt_protocol::sniffer::{Change, Suppressed};
use wakevirt_protocol::{CapturedPacket, Carrier, MacAddr, ParsedPacket, Password, Stamp, Transport};

use crate::network::links::Interface;
use crate::packets::interest::{Interests, TooMany};
use crate::packets::key::Key;
use crate::packets::recent::Recent;
use crate::packets::ring::{Announcement, Entry, StoredPacket};
use crate::packets::store::Store;

/// The maximum number of unpublished packets for addresses of interest.
///
/// This is enough for the first packets for several thousand addresses on one interface at once. The queue fills up
/// only if the bus is unavailable for a long time.
const MAX_UNPUBLISHED_INTERESTING: usize = 8192;

/// The maximum number of unpublished packets for other addresses.
const MAX_UNPUBLISHED_OTHERS: usize = 1024;

/// The settings of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerSettings {
    /// How long copies of an announced packet are dropped.
    pub deduplicate: Duration,
    /// The number of published packets in each of the two rings.
    pub remember: usize,
    /// The number of packets per second and ingress interface for addresses that are not of interest.
    pub limit: u32,
}

/// The decision about a magic packet.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It must be announced.
    Announce {
        /// The announcement.
        announcement: Arc<Announcement>,
        /// Whether a caller is interested in its address.
        of_interest: bool,
    },
    /// It is a copy of an announced packet.
    Duplicate,
    /// It exceeds a limit: that of its interface, of its address, or of the queue while the bus is unavailable.
    Limited,
}

/// The counters of one transport, without the packets that the sniffer did not pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// All magic packets.
    pub received: u64,
    /// Packets with [`Verdict::Duplicate`].
    pub duplicates: u64,
    /// Packets with [`Verdict::Limited`].
    pub limited: u64,
}

impl TransportCounters {
    /// These counters and the packets that the sniffer did not pass. The sums saturate, because a compromised sniffer can
    /// send any numbers.
    #[must_use]
    pub const fn with(self, suppressed: Suppressed) -> Self {
        let Suppressed { duplicates, limited } = suppressed;
        Self {
            received: self.received.saturating_add(duplicates).saturating_add(limited),
            duplicates: self.duplicates.saturating_add(duplicates),
            limited: self.limited.saturating_add(limited),
        }
    }
}

/// Numbers, limits and stores magic packets.
#[derive(Debug)]
pub struct Ledger {
    settings: LedgerSettings,
    /// Random, so that subscribers notice a restart.
    epoch: String,
    sequence: u64,
    /// The sequence up to which all packets were published, or are available only through `replay`.
    published: u64,
    /// Hashes the passwords in keys.
    hasher: RandomState,
    recent: Recent,
    interests: Interests,
    budgets: Budgets<RandomState>,
    /// The time of the first packet, which is time zero of the budgets.
    start: Option<Instant>,
    interesting: Store,
    others: Store,
    ethernet: TransportCounters,
    udp4: TransportCounters,
    udp6: TransportCounters,
}

impl Ledger {
    /// Creates an empty ledger.
    #[must_use]
    pub fn new(settings: LedgerSettings, epoch: String) -> Self {
        Self {
            settings,
            epoch,
            sequence: 0,
            published: 0,
            hasher: RandomState::new(),
            recent: Recent::default(),
            interests: Interests::default(),
            budgets: Budgets::default_size(Rates::announced(settings.limit), RandomState::new()),
            start: None,
            interesting: Store::new(MAX_UNPUBLISHED_INTERESTING),
            others: Store::new(MAX_UNPUBLISHED_OTHERS),
            ethernet: TransportCounters::default(),
            udp4: TransportCounters::default(),
            udp6: TransportCounters::default(),
        }
    }

    /// Replaces the settings.
    pub fn reconfigure(&mut self, settings: LedgerSettings) {
        self.settings = settings;
        self.budgets.set_rates(Rates::announced(settings.limit));
        for store in [&mut self.interesting, &mut self.others] {
            store.shrink(settings.remember);
        }
    }

    /// Determines what happens to a magic packet from the interface with these names.
    ///
    /// The index of an interface that does not exist must be 0: a compromised sniffer could invent interfaces, and
    /// each has its own budget.
    pub fn receive(
        &mut self,
        captured: CapturedPacket,
        names: Option<Arc<Interface>>,
        stamp: Stamp,
        now: Instant,
    ) -> Verdict {
        let CapturedPacket { packet, interface } = captured;
        self.counters_mut(&packet).received += 1;
        let key = Key::of(&packet, interface, &self.hasher);
        let original = self.recent.original(key, &packet.carrier, self.settings.deduplicate, now);
        if let Some(sequence) = original {
            self.counters_mut(&packet).duplicates += 1;
            self.count_copy(sequence);
            return Verdict::Duplicate;
        }
        let of_interest = self.interests.contains(key.target, now);
        if !self.admit(&key, of_interest, now) {
            self.counters_mut(&packet).limited += 1;
            return Verdict::Limited;
        }
        self.sequence += 1;
        self.recent.announced(key, &packet.carrier, self.sequence, now);
        let announcement =
            Arc::new(Announcement { sequence: self.sequence, packet, interface: names, stamp });
        let stored = StoredPacket { announcement: Arc::clone(&announcement), copies: 1 };
        let store = if of_interest { &mut self.interesting } else { &mut self.others };
        store.push(Entry { stored, key }, now);
        Verdict::Announce { announcement, of_interest }
    }

    /// Whether a packet with this key can be announced. A packet that does not fit in its store does not count against
    /// a budget.
    fn admit(&mut self, key: &Key, of_interest: bool, now: Instant) -> bool {
        let at = self.since_start(now);
        let store = if of_interest { &mut self.interesting } else { &mut self.others };
        store.move_published(self.published, self.settings.remember, now);
        store.has_room(key)
            && if of_interest {
                self.budgets.admit_known(key.interface, key.target, at)
            } else {
                self.budgets.admit_unknown(key.interface, at)
            }
    }

    fn since_start(&mut self, now: Instant) -> Micros {
        let start = *self.start.get_or_insert(now);
        u64::try_from(now.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
    }

    /// Records that all packets up to this sequence were published, or are available only through [`Self::replay`]. The
    /// rings can remove them from now on.
    pub fn published(&mut self, sequence: u64, now: Instant) {
        self.published = self.published.max(sequence);
        for store in [&mut self.interesting, &mut self.others] {
            store.move_published(self.published, self.settings.remember, now);
        }
    }

    /// Returns at most `limit` stored packets with a sequence above `after`, oldest first, and whether some are no
    /// longer stored. `after` is ignored if `epoch` is not the current one.
    #[must_use]
    pub fn replay(&self, epoch: &str, after: u64, limit: usize) -> (bool, Vec<StoredPacket>) {
        let after = if epoch == self.epoch { after } else { 0 };
        let lost = self.interesting.lost_after(after) || self.others.lost_after(after);
        let stored = self.interesting.after(after).take(limit).chain(self.others.after(after).take(limit));
        let mut packets: Vec<StoredPacket> = stored.map(|entry| entry.stored.clone()).collect();
        packets.sort_unstable_by_key(|packet| packet.announcement.sequence);
        packets.truncate(limit);
        (lost, packets)
    }

    /// Returns the password of a packet: `None` if the packet is not stored, `Some(None)` if it has no
    /// password.
    #[must_use]
    pub fn password(&mut self, epoch: &str, sequence: u64) -> Option<Option<Password>> {
        if epoch != self.epoch {
            return None;
        }
        let entry = self.interesting.get_mut(sequence).or_else(|| self.others.get_mut(sequence))?;
        Some(entry.stored.announcement.packet.magic.password().cloned())
    }

    /// Replaces the interest of a caller.
    ///
    /// # Errors
    /// [`TooMany`]. The previous interest stays in effect.
    pub fn set_interest(
        &mut self,
        caller: &str,
        macs: BTreeSet<MacAddr>,
        now: Instant,
    ) -> Result<(), TooMany> {
        self.interests.set(caller, macs, now)
    }

    /// Takes the next change of the interest that the sniffer does not know yet.
    pub fn next_change(&mut self, now: Instant) -> Option<Change> {
        let (added, addresses) = self.interests.next_batch(now)?;
        Some(Change::Interest { added, addresses })
    }

    /// Records that a caller's connection has closed.
    pub fn caller_disconnected(&mut self, caller: &str, now: Instant) {
        self.interests.disconnect(caller, now);
    }

    /// Records that the connection to the bus, and with it the connections of all callers, has closed.
    pub fn bus_lost(&mut self, now: Instant) {
        self.interests.disconnect_all(now);
    }

    /// The identifier of this run of the service.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The sequence of the most recently announced packet, or 0.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The counters of a transport.
    #[must_use]
    pub const fn counters(&self, transport: Transport) -> TransportCounters {
        match transport {
            Transport::Ethernet => self.ethernet,
            Transport::Udp4 => self.udp4,
            Transport::Udp6 => self.udp6,
        }
    }

    fn counters_mut(&mut self, packet: &ParsedPacket) -> &mut TransportCounters {
        match packet.carrier {
            Carrier::Ethernet { .. } => &mut self.ethernet,
            Carrier::Udp4(_) => &mut self.udp4,
            Carrier::Udp6(_) => &mut self.udp6,
        }
    }

    fn count_copy(&mut self, sequence: u64) {
        let entry = self.interesting.get_mut(sequence).or_else(|| self.others.get_mut(sequence));
        if let Some(Entry { stored, .. }) = entry {
            stored.copies = stored.copies.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests;
