//! Packets without a decision: their password is being fetched, or a hypervisor that may have their domain is
//! unavailable.

use std::collections::VecDeque;

use tokio::time::Instant;
use wakevirt_protocol::Transport;
use wakevirt_service::clock;
use wakevirt_service::logs::kind;

use super::Engine;
use super::log_limiter::{LineKind, Permit};
use super::wakes::{age, received_at};
use crate::announcer::fetch_password;
use crate::engine::report::{describe, sender};
use crate::model::{Outcome, Packet, Subject};
use crate::policy::decision::has_expired;

/// The maximum number of held packets, and of packets that are waiting for their password.
const MAX_PENDING: usize = 256;

/// Logs a message about a packet without a decision.
macro_rules! log_packet {
    ($log:ident, $kind:expr, $packet:ident, $($message:tt)+) => {
        tracing::$log!(
            MESSAGE_ID = $kind,
            WAKEVIRT_MAC = %$packet.mac,
            WAKEVIRT_INTERFACE = $packet.details.interface,
            WAKEVIRT_VLAN = $packet.details.vlan,
            WAKEVIRT_TRANSPORT = $packet.details.transport.map(Transport::as_str),
            WAKEVIRT_SOURCE = sender($packet),
            $($message)+
        )
    };
}

/// The packets without a decision.
#[derive(Default)]
pub(super) struct Pending {
    /// Packets for unknown MAC addresses that are held while a hypervisor is unavailable, and when each was captured.
    unknown: VecDeque<(u64, Packet)>,
    /// Packets that are waiting for their password.
    fetching: Vec<Packet>,
}

impl Pending {
    /// When the oldest held packet was captured: CLOCK_BOOTTIME, in microseconds.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.unknown.iter().map(|(since, _)| *since).min()
    }

    /// Removes a packet: its password was fetched, or the fetch failed.
    pub(super) fn fetched(&mut self, packet: &Packet) {
        self.fetching.retain(|fetching| fetching != packet);
    }

    /// All packets, to be saved.
    pub(super) fn packets(&self) -> Vec<Packet> {
        self.unknown.iter().map(|(_, packet)| packet).chain(&self.fetching).cloned().collect()
    }

    /// Holds the saved packets, because no domain is known yet. Returns those for which there is no room: the packets that
    /// were waiting for their passwords are saved as well.
    fn restore(&mut self, mut packets: Vec<Packet>) -> Vec<Packet> {
        let since = |packet: &Packet| received_at(packet).unwrap_or_else(clock::boottime);
        let newest = packets.split_off(packets.len().saturating_sub(MAX_PENDING));
        self.unknown.extend(newest.into_iter().map(|packet| (since(&packet), packet)));
        packets
    }
}

impl Engine {
    /// Holds the packets that an earlier process saved. Drops those for which there is no room.
    pub(super) fn restore_packets(&mut self, packets: Vec<Packet>) {
        let dropped = self.pending.restore(packets);
        self.unsaved |= !dropped.is_empty();
        dropped.iter().for_each(|packet| self.drop_packet(packet));
    }

    /// Fetches the password of the packet. The decision follows when the fetch ends.
    pub(super) fn fetch_password(&mut self, packet: Packet) {
        if self.fetched.len() >= MAX_PENDING {
            // Another rule may allow the packet without a password.
            let error = format!("{MAX_PENDING} other passwords are being fetched");
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

    /// Holds the packet until it expires if an unavailable hypervisor may have its domain; otherwise counts it as unknown.
    pub(super) fn hold_or_count(&mut self, packet: Packet) {
        let Some(unavailable) = self.hypervisors.unavailable() else { return self.report_unknown(&packet) };
        let since = received_at(&packet).unwrap_or_else(clock::boottime);
        if has_expired(age(since), self.policy.timing.hold) {
            return self.report_expired(&packet, &unavailable);
        }
        if self.pending.unknown.len() >= MAX_PENDING {
            let oldest = self.pending.unknown.pop_front();
            oldest.iter().for_each(|(_, oldest)| self.drop_packet(oldest));
        }
        self.unsaved = true;
        self.log_held(&packet, &unavailable);
        self.pending.unknown.push_back((since, packet));
    }

    /// Reports a packet that may be for a domain of an unavailable hypervisor. The reason is the same for all such packets,
    /// so that few of them are logged.
    fn report_expired(&mut self, packet: &Packet, unavailable: &str) {
        let subject = Subject::new(Some(packet.mac), None, None, Some(packet));
        let reason = format!(
            "the packet is older than `hold`, and no known domain has this address; unavailable: {unavailable}"
        );
        self.report(subject, Outcome::Expired, reason, Vec::new());
    }

    fn log_held(&mut self, packet: &Packet, unavailable: &str) {
        if self.log_limiter.check(LineKind::Held, Instant::now()) != Permit::Suppress {
            log_packet!(
                info,
                kind::PACKET_HELD,
                packet,
                "held: {}: no known domain has this address; unavailable: {unavailable}",
                describe(packet)
            );
        }
    }

    /// Counts the packet. Only the first one for each address is logged: the network may have many other machines.
    fn report_unknown(&mut self, packet: &Packet) {
        self.history.count_unknown(packet);
        if self.log_limiter.check_unknown(packet.mac, Instant::now()) {
            log_packet!(
                info,
                kind::PACKET_UNKNOWN,
                packet,
                "unknown: {}: no domain has this address; {} shows a domain's addresses, and an [[alias]] can add \
                 one. Further packets for this address are counted but not logged",
                describe(packet),
                self.hypervisors.commands(|it| &it.list_addresses)
            );
        }
    }

    /// Counts and logs a packet that is dropped to make room for a newer one.
    fn drop_packet(&mut self, packet: &Packet) {
        self.outputs.lost.add(1);
        if self.log_limiter.check(LineKind::Lost, Instant::now()) != Permit::Suppress {
            log_packet!(
                warn,
                kind::PACKET_DROPPED,
                packet,
                "dropped: {}: {MAX_PENDING} newer packets are held",
                describe(packet)
            );
        }
    }

    /// Decides on the held packets again, after more domains have become known.
    pub(super) fn decide_held_packets(&mut self) {
        self.unsaved |= !self.pending.unknown.is_empty();
        for (_, packet) in std::mem::take(&mut self.pending.unknown) {
            self.handle_packet(packet, None);
        }
    }

    /// Removes and reports expired packets.
    pub(super) fn expire_held_packets(&mut self) {
        let hold = self.policy.timing.hold;
        let held = std::mem::take(&mut self.pending.unknown).into_iter();
        let (expired, remaining) =
            held.partition::<VecDeque<_>, _>(|(since, _)| has_expired(age(*since), hold));
        self.pending.unknown = remaining;
        self.unsaved |= !expired.is_empty();
        for (_, packet) in expired {
            match self.hypervisors.unavailable() {
                Some(unavailable) => self.report_expired(&packet, &unavailable),
                None => self.report_unknown(&packet),
            }
        }
    }
}
