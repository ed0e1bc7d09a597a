//! Log lines about packets, limited in number.

use std::time::{Duration, Instant};

use wakevirt_protocol::frame::SEARCHED;
use wakevirt_protocol::sniffer::Counters;
use wakevirt_protocol::{MacAddr, VlanId};
use wakevirt_service::logs::{Quota, kind, quoted};

use crate::network::links::Interface;
use crate::packets::ring::Announcement;

/// The quoted name of an interface, or a phrase for an interface that no longer exists.
fn shown(interface: Option<&str>) -> String {
    interface.map_or_else(|| "a removed interface".to_owned(), |name| quoted(name).to_string())
}

/// Logs packets and losses, with a quota for each kind of line.
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
    /// Logs that a packet is not announced because there are too many packets on its interface.
    pub fn limited(&mut self, mac: MacAddr, interface: Option<&Interface>) {
        let Some(suppressed) = self.limits.take(Instant::now()) else { return };
        let interface = interface.map(|interface| interface.name.as_str());
        let shown = shown(interface);
        tracing::warn!(
            MESSAGE_ID = kind::PACKET_LIMITED,
            WAKEVIRT_MAC = %mac,
            WAKEVIRT_INTERFACE = interface,
            WAKEVIRT_SUPPRESSED = suppressed,
            "too many packets on {shown}: a packet for {mac} is counted in `Limited`, but not announced; to exclude the \
             interface, set `interfaces` in capture.toml"
        );
    }

    /// Logs an announced packet, at the debug level if its address is not of interest.
    pub fn announced(&mut self, announcement: &Announcement, of_interest: bool) {
        if !of_interest && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(suppressed) = self.packets.take(Instant::now()) else { return };
        let Announcement { sequence, packet, interface, .. } = announcement;
        let interface = interface.as_ref().map(|interface| interface.name.as_str());
        let shown = shown(interface);
        let (mac, transport) = (packet.magic.target(), packet.carrier.transport().as_str());
        let sender = packet.carrier.sender();
        let from = sender.as_ref().map(|sender| format!(" from {sender}")).unwrap_or_default();
        let vlan = packet.vlan.map(VlanId::get);
        let tagged = vlan.map(|vlan| format!(" in VLAN {vlan}")).unwrap_or_default();
        let suppressed = (suppressed > 0).then_some(suppressed);
        // tracing makes the level part of a message's static metadata, so each level needs its own macro call.
        macro_rules! line {
            ($log:ident) => {
                tracing::$log!(
                    MESSAGE_ID = kind::PACKET_ANNOUNCED,
                    WAKEVIRT_SEQUENCE = sequence,
                    WAKEVIRT_MAC = %mac,
                    WAKEVIRT_INTERFACE = interface,
                    WAKEVIRT_VLAN = vlan,
                    WAKEVIRT_TRANSPORT = transport,
                    WAKEVIRT_SOURCE = sender,
                    WAKEVIRT_SUPPRESSED = suppressed,
                    "magic packet for {mac}{from} on {shown}{tagged}"
                )
            };
        }
        if of_interest {
            line!(info);
        } else {
            line!(debug);
        }
    }

    /// Logs the losses between two states of the counters. No counter can be lower than before.
    pub fn losses(&mut self, earlier: &Counters, counters: &Counters) {
        let kernel = counters.dropped_by_kernel() - earlier.dropped_by_kernel();
        let channel = counters.dropped_channel - earlier.dropped_channel;
        if (kernel > 0 || channel > 0) && self.losses.take(Instant::now()).is_some() {
            tracing::warn!(
                MESSAGE_ID = kind::PACKETS_LOST,
                WAKEVIRT_LOST_BY_KERNEL = kernel,
                WAKEVIRT_LOST_BY_CAPTURE = channel,
                "packets were lost: {kernel} before they reached the sniffer, {channel} between the sniffer and the \
                 announcer; magic packets are arriving faster than capture can read them"
            );
        }
        let truncated = counters.truncated - earlier.truncated;
        if truncated > 0 && self.truncations.take(Instant::now()).is_some() {
            tracing::warn!(
                MESSAGE_ID = kind::PAYLOAD_TRUNCATED,
                WAKEVIRT_TRUNCATED = truncated,
                "payloads with magic packets that were longer than the {SEARCHED} bytes that are searched: {truncated}; any \
                 further packets in them are lost. The kernel merges datagrams: make the sender pause between packets, \
                 or run `ethtool -K INTERFACE rx-udp-gro-forwarding off rx-gro-list off`"
            );
        }
    }
}
