//! The lines that packets can cause in the log, and how many of them there are.

use std::time::{Duration, Instant};

use wakevirt_protocol::frame::SEARCHED;
use wakevirt_protocol::sniffer::Counters;
use wakevirt_protocol::{MacAddr, VlanId};
use wakevirt_service::logs::{Quota, quoted};

use crate::network::links::Interface;
use crate::packets::ring::Announcement;

/// What stands for the name of an interface that the kernel no longer lists.
const GONE: &str = "an interface that has gone";

/// Writes lines about packets, each kind within its quota.
pub struct PacketLog {
    packets: Quota,
    losses: Quota,
    limits: Quota,
    truncations: Quota,
}

impl Default for PacketLog {
    fn default() -> Self {
        Self {
            packets: Quota::new(20, Duration::from_secs(10)),
            losses: Quota::per_minute(1),
            limits: Quota::per_minute(1),
            truncations: Quota::per_minute(1),
        }
    }
}

impl PacketLog {
    /// There are more packets on the interface than are announced; this one is not.
    pub fn limited(&mut self, mac: MacAddr, interface: Option<&Interface>) {
        let Some(held_back) = self.limits.take(Instant::now()) else { return };
        let interface = quoted(interface.map_or(GONE, |interface| &interface.name));
        tracing::warn!(
            %mac, held_back,
            "too many packets on {interface}: one for {mac} is not announced; `Limited` counts them, and `interfaces` in \
             capture.toml can leave an interface out"
        );
    }

    /// A packet is announced: one that nobody is interested in shows at level debug.
    pub fn announced(&mut self, announcement: &Announcement, of_interest: bool) {
        if !of_interest && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(held_back) = self.packets.take(Instant::now()) else { return };
        let Announcement { sequence, packet: heard, interface, .. } = announcement;
        let interface = interface.as_ref().map_or(GONE, |interface| &interface.name);
        let (mac, transport) = (heard.magic.target(), heard.carrier.transport());
        let interface = quoted(interface);
        let from = heard.carrier.sender().map(|sender| format!(" from {sender}")).unwrap_or_default();
        let vlan = heard.vlan.map(VlanId::get);
        let tagged = vlan.map(|vlan| format!(" in VLAN {vlan}")).unwrap_or_default();
        let held_back = (held_back > 0).then_some(held_back);
        if of_interest {
            tracing::info!(sequence, %mac, transport, vlan, held_back, "magic packet for {mac}{from} on {interface}{tagged}");
        } else {
            tracing::debug!(sequence, %mac, transport, vlan, held_back, "magic packet for {mac}{from} on {interface}{tagged}");
        }
    }

    /// What was lost between these counts. The later ones are not less.
    pub fn losses(&mut self, earlier: &Counters, counters: &Counters) {
        let kernel = counters.dropped_by_kernel() - earlier.dropped_by_kernel();
        let channel = counters.dropped_channel - earlier.dropped_channel;
        if (kernel > 0 || channel > 0) && self.losses.take(Instant::now()).is_some() {
            tracing::warn!(
                kernel,
                channel,
                "packets were lost: {kernel} before and {channel} behind the sniffer; somebody sends more magic packets \
                 than can be read"
            );
        }
        let truncated = counters.truncated - earlier.truncated;
        if truncated > 0 && self.truncations.take(Instant::now()).is_some() {
            tracing::warn!(
                truncated,
                "{truncated} payloads with magic packets were longer than the {SEARCHED} bytes that are searched; any \
                 packets in the rest are lost. The kernel merges datagrams: let the sender pause between packets, or \
                 run `ethtool -K INTERFACE rx-udp-gro-forwarding off rx-gro-list off`"
            );
        }
    }
}
