//! The unknown MAC addresses for which packets arrived most recently.

use std::collections::VecDeque;

use wakevirt_protocol::MacAddr;

use crate::model::Packet;

/// The maximum number of stored addresses.
const MAX_ADDRESSES: usize = 32;

/// The most recent addresses, without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownAddresses(VecDeque<UnknownAddress>);

/// An address that no domain has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownAddress {
    /// The address.
    pub mac: MacAddr,
    /// The number of packets for it while it was stored.
    pub packets: u64,
    /// The time of the most recent packet: CLOCK_REALTIME, in microseconds.
    pub time: u64,
    /// The ingress interface of the most recent packet; empty if unknown.
    pub interface: String,
}

impl UnknownAddresses {
    /// Adds a packet. If there is no room, forgets the address with the oldest packet.
    pub(super) fn add(&mut self, packet: &Packet, time: u64) {
        let position = self.0.iter().position(|address| address.mac == packet.mac);
        let before = position.and_then(|position| self.0.remove(position));
        let packets = before.map_or(0, |before| before.packets).saturating_add(1);
        let interface = packet.details.interface.clone().unwrap_or_default();
        self.0.push_front(UnknownAddress { mac: packet.mac, packets, time, interface });
        self.0.truncate(MAX_ADDRESSES);
    }

    /// The addresses, ordered by their most recent packet, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &UnknownAddress> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use wakevirt_protocol::bus::PacketDetails;

    use super::*;

    #[test]
    fn forgets_the_oldest_addresses_in_a_flood() {
        let mut addresses = UnknownAddresses::default();
        let packet = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            let details = PacketDetails { interface: Some("br0".to_owned()), ..PacketDetails::default() };
            Packet { mac: MacAddr::new([2, 0, a, b, c, d]), sequence: 1, details }
        };
        for number in 0..10_000 {
            addresses.add(&packet(number), number.into());
            addresses.add(&packet(7), number.into());
            assert!(addresses.iter().count() <= MAX_ADDRESSES);
        }
        let all: Vec<_> = addresses.iter().collect();
        assert_eq!((all.len(), all[0].packets, all[0].time), (MAX_ADDRESSES, 10_001, 9999));
        assert_eq!((all[1].mac, all[1].packets, all[1].interface.as_str()), (packet(9999).mac, 1, "br0"));
    }
}
