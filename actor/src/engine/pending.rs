//! Packets that cannot be decided about yet: their password is being fetched, or a hypervisor that
//! may have their domain is away.

use std::collections::VecDeque;
use tokio::time::Instant;
use tracing::field::display;
use wakevirt_service::clock;
use wakevirt_service::logs::quoted;

use super::Engine;
use super::log_limiter::{LineKind, Permit};
use super::wakes::{age, seen};
use crate::announcer::fetch_password;
use crate::engine::report::described;
use crate::model::Packet;
use crate::policy::decision::has_expired;

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
        let since = |packet: &Packet| seen(packet).unwrap_or_else(clock::boottime);
        // The file is the service's own, but its bound is another one.
        let newest = packets.len().saturating_sub(MOST);
        self.unknown.extend(packets.into_iter().skip(newest).map(|packet| (since(&packet), packet)));
    }
}

impl Engine {
    /// Asks for the packet's password; it is decided about then.
    pub(super) fn fetch_password(&mut self, packet: Packet) {
        if self.fetched.len() >= MOST {
            // Perhaps another rule allows it without one.
            let error = format!("{MOST} other packets wait for theirs");
            return self.handle_packet(packet, Some(Err(error)));
        }
        self.unsaved = true;
        self.pending.fetching.push(packet.clone());
        let fetches = self.outputs.fetches.clone();
        self.fetched.spawn(async move {
            let password = fetch_password(fetches, &packet).await;
            (packet, password)
        });
    }

    /// Holds it while a hypervisor may have its domain, else counts it.
    pub(super) fn hold_or_count(&mut self, packet: Packet) {
        if self.hypervisors.is_one_away() {
            let since = seen(&packet).unwrap_or_else(clock::boottime);
            if !has_expired(age(since), self.policy.times.hold) {
                if self.pending.unknown.len() >= MOST {
                    let oldest = self.pending.unknown.pop_front();
                    oldest.iter().for_each(|(_, oldest)| self.lose(oldest));
                }
                self.unsaved = true;
                self.tell_held(&packet);
                self.pending.unknown.push_back((since, packet));
                return;
            }
        }
        self.tell_unknown(&packet);
    }

    fn tell_held(&mut self, packet: &Packet) {
        if self.log_limiter.check(LineKind::Held, Instant::now()) != Permit::Suppress {
            let packet = described(packet);
            let missing = self.hypervisors.missing().unwrap_or_default();
            tracing::info!(
                "held: {packet}: no known domain has this address, and {missing} cannot be reached"
            );
        }
    }

    /// Counts it. The first one for each address has a line; there may be many other machines on the network.
    fn tell_unknown(&mut self, packet: &Packet) {
        self.records.count_unknown();
        if self.log_limiter.check_unknown(packet.mac, Instant::now()) {
            let interface = packet.details.interface.as_deref().map(|it| display(quoted(it)));
            tracing::info!(
                mac = %packet.mac,
                interface,
                "unknown: {}: no domain has this address; {} shows a domain's addresses, and an [[alias]] can add \
                 one. More packets for it are only counted",
                described(packet),
                self.hypervisors.commands(|it| &it.list_addresses)
            );
        }
    }

    /// Counts a packet for which there is no place.
    fn lose(&mut self, packet: &Packet) {
        self.outputs.lost.add(1);
        if self.log_limiter.check(LineKind::Lost, Instant::now()) != Permit::Suppress {
            let packet = described(packet);
            tracing::warn!("{packet} is dropped: {MOST} others wait for a hypervisor");
        }
    }

    /// Decides again, now that more domains are known.
    pub(super) fn decide_held_packets(&mut self) {
        self.unsaved |= !self.pending.unknown.is_empty();
        for (_, packet) in std::mem::take(&mut self.pending.unknown) {
            self.handle_packet(packet, None);
        }
    }

    /// Forgets packets that are too old for any domain.
    pub(super) fn end_old_packets(&mut self) {
        let hold = self.policy.times.hold;
        let waiting = std::mem::take(&mut self.pending.unknown).into_iter();
        let (old, young) = waiting.partition::<VecDeque<_>, _>(|(since, _)| has_expired(age(*since), hold));
        self.pending.unknown = young;
        self.unsaved |= !old.is_empty();
        for (_, packet) in old {
            self.tell_unknown(&packet);
        }
    }
}
