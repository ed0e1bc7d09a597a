//! Packets that cannot be decided about yet: their password is being fetched, or a hypervisor that
//! may have their domain is away.

use std::collections::VecDeque;
use std::time::Instant;

use super::wakes::age;
use super::{Actor, boottime};
use crate::decision::has_expired;
use crate::fetch::fetch;
use crate::listen::Packet;

/// Packets that may wait; what goes beyond pushes the oldest out.
const MOST: usize = 256;

/// The packets.
#[derive(Default)]
pub(super) struct Pending {
    /// For MAC addresses that nobody is known to have, while a hypervisor is away; and when each was seen.
    unknown: VecDeque<(u64, Packet)>,
    /// Those whose password is being fetched.
    fetching: Vec<Packet>,
}

impl Pending {
    /// When the oldest one was seen: CLOCK_BOOTTIME, in microseconds.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.unknown.iter().map(|(since, _)| *since).min()
    }

    /// The password of this packet was fetched, or cannot be had.
    pub(super) fn fetched(&mut self, packet: &Packet) {
        self.fetching.retain(|waiting| waiting != packet);
    }

    /// All of them.
    pub(super) fn packets(&self) -> Vec<Packet> {
        self.unknown.iter().map(|(_, packet)| packet).chain(&self.fetching).cloned().collect()
    }

    /// Has these wait: nothing is known of any domain yet.
    pub(super) fn restore(&mut self, packets: Vec<Packet>) {
        let since = |packet: &Packet| packet.details.boottime.unwrap_or_else(boottime);
        self.unknown.extend(packets.into_iter().map(|packet| (since(&packet), packet)));
    }
}

impl Actor {
    /// Asks for the packet's password; it is decided about then.
    pub(super) fn fetch(&mut self, packet: Packet) {
        if self.fetched.len() >= MOST {
            tracing::warn!(mac = %packet.mac, "too many passwords at once: a packet is lost");
            return;
        }
        self.changed = true;
        self.pending.fetching.push(packet.clone());
        let fetches = self.outlets.fetches.clone();
        self.fetched.spawn(async move {
            let password = fetch(fetches, &packet).await;
            (packet, password)
        });
    }

    /// Counted, and shown to those who look for it; there may be many other machines on the network.
    pub(super) fn unknown(&mut self, packet: Packet) {
        if self.is_one_away() {
            let since = packet.details.boottime.unwrap_or_else(boottime);
            if !has_expired(age(since), self.policy.times.hold) {
                if self.pending.unknown.len() >= MOST {
                    self.pending.unknown.pop_front();
                }
                self.changed = true;
                self.pending.unknown.push_back((since, packet));
                return;
            }
        }
        self.records.unknown();
        let mac = packet.mac;
        if let Some(held_back) = self.unknown.take(Instant::now()) {
            tracing::debug!(%mac, held_back, "packet for {mac}, which no domain has");
        }
    }

    /// Decides again, now that more domains are known.
    pub(super) fn reconsider(&mut self) {
        self.changed |= !self.pending.unknown.is_empty();
        for (_, packet) in std::mem::take(&mut self.pending.unknown) {
            self.packet(packet, None);
        }
    }

    /// Forgets packets that are too old for any domain.
    pub(super) fn forget_old(&mut self) {
        let hold = self.policy.times.hold;
        let before = self.pending.unknown.len();
        self.pending.unknown.retain(|(since, _)| !has_expired(age(*since), hold));
        for _ in self.pending.unknown.len()..before {
            self.changed = true;
            self.records.unknown();
        }
    }
}
