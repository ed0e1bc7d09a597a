use std::net::Ipv4Addr;

use wakevirt_protocol::{MagicPacket, UdpPath};

use super::*;

const STAMP: Stamp = Stamp { timestamp: 1, boottime: Some(2) };

const SETTINGS: LedgerSettings =
    LedgerSettings { deduplicate: Duration::from_secs(2), remember: 4, limit: 5 };

fn ledger() -> Ledger {
    Ledger::new(SETTINGS, "epoch".to_owned())
}

fn mac(n: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, n])
}

fn frame(target: u8, password: Option<&[u8]>, source: u8, interface: u32) -> CapturedPacket {
    let password = password.map(|bytes| Password::try_from(bytes).unwrap());
    let magic = MagicPacket::new(mac(target), password).unwrap();
    let carrier = Carrier::Ethernet { ethertype: Some(0x0842), source: Some(mac(source)) };
    CapturedPacket { packet: ParsedPacket { magic, carrier, vlan: None }, interface }
}

fn tagged(target: u8, vlan: u16) -> CapturedPacket {
    let mut captured = frame(target, None, 9, 1);
    captured.packet.vlan = Some(vlan.try_into().unwrap());
    captured
}

fn datagram(target: u8, source: u8, source_mac: Option<MacAddr>) -> CapturedPacket {
    let carrier = Carrier::Udp4(UdpPath {
        source_mac,
        source: Ipv4Addr::new(192, 0, 2, source),
        source_port: 40_000,
        destination: Ipv4Addr::BROADCAST,
        destination_port: 9,
    });
    let magic = MagicPacket::new(mac(target), None).unwrap();
    CapturedPacket { packet: ParsedPacket { magic, carrier, vlan: None }, interface: 1 }
}

/// Receives a packet, and returns the sequence of its announcement; `None` if it was not announced.
fn announced(ledger: &mut Ledger, captured: CapturedPacket, now: Instant) -> Option<u64> {
    match ledger.receive(captured, None, STAMP, now) {
        Verdict::Announce { announcement, .. } => Some(announcement.sequence),
        Verdict::Duplicate | Verdict::Limited => None,
    }
}

/// Publishes all announced packets.
fn publish(ledger: &mut Ledger, now: Instant) {
    ledger.published(ledger.sequence(), now);
}

fn sequences(packets: &[StoredPacket]) -> Vec<u64> {
    packets.iter().map(|packet| packet.announcement.sequence).collect()
}

#[test]
fn announces_once_for_each_target_password_interface_vlan_and_source() {
    let (mut ledger, now) = (ledger(), Instant::now());
    ledger.reconfigure(LedgerSettings { limit: 100, ..SETTINGS });
    let different = [
        frame(1, None, 9, 1),
        frame(2, None, 9, 1),
        frame(1, Some(b"four"), 9, 1),
        frame(1, None, 8, 1),
        frame(1, None, 9, 2),
        tagged(1, 10),
        tagged(1, 20),
    ];
    for captured in &different {
        assert!(announced(&mut ledger, captured.clone(), now).is_some(), "{captured:?}");
    }
    for captured in different {
        assert_eq!(ledger.receive(captured, None, STAMP, now), Verdict::Duplicate);
    }
    assert_eq!(
        ledger.counters(Transport::Ethernet),
        TransportCounters { received: 14, duplicates: 7, limited: 0 }
    );
}

#[test]
fn a_datagram_that_a_udp_socket_received_is_a_copy_of_its_frame() {
    let (mut ledger, now) = (ledger(), Instant::now());
    assert!(announced(&mut ledger, datagram(1, 7, Some(mac(7))), now).is_some());
    assert_eq!(ledger.receive(datagram(1, 7, None), None, STAMP, now), Verdict::Duplicate);
    let (_, packets) = ledger.replay("epoch", 0, usize::MAX);
    assert_eq!(packets.first().unwrap().copies, 2);
}

#[test]
fn announces_packets_from_a_continuous_sender_once_per_window() {
    let (mut ledger, start) = (ledger(), Instant::now());
    let announced: Vec<u64> = (0..50)
        .filter(|n| {
            let now = start + Duration::from_millis(100) * u32::try_from(*n).unwrap();
            announced(&mut ledger, frame(1, None, 9, 1), now).is_some()
        })
        .collect();
    assert_eq!(announced, [0, 20, 40]);
}

#[test]
fn limits_unknown_addresses_together_and_each_address_of_interest_separately() {
    let (mut ledger, now) = (ledger(), Instant::now());
    ledger.set_interest(":1.1", BTreeSet::from([mac(1), mac(2)]), now).unwrap();
    let mut flood = |target, interface| {
        let packets = (0..100).map(|source| frame(target, None, source, interface));
        packets.filter(|packet| announced(&mut ledger, packet.clone(), now).is_some()).count()
    };
    for interface in [1, 2] {
        let unknown: usize = (100..110).map(|target| flood(target, interface)).sum();
        assert_eq!(unknown, 5);
        for target in [1, 2] {
            // Half of the sixteen slots for unpublished packets for one address.
            assert_eq!(flood(target, interface), if interface == 1 { 8 } else { 4 });
        }
    }
    assert_eq!(ledger.counters(Transport::Ethernet).limited, 2400 - 10 - 24);
}

#[test]
fn a_flood_on_one_interface_does_not_affect_the_same_address_on_another() {
    let (mut ledger, start) = (ledger(), Instant::now());
    ledger.set_interest(":1.1", BTreeSet::from([mac(1)]), start).unwrap();
    let mut genuine = 0;
    for n in 0..1000_u32 {
        // Fifty packets per second, each with a different sender and a different password.
        let now = start + Duration::from_millis(20) * n;
        let source = u8::try_from(n % 250).unwrap();
        let _ = ledger.receive(frame(1, Some(&n.to_be_bytes()), source, 2), None, STAMP, now);
        if n.is_multiple_of(50) {
            let sequence = announced(&mut ledger, frame(1, Some(b"secret"), source, 1), now).unwrap();
            assert_eq!(ledger.password("epoch", sequence), Some(Some(Password::Six(*b"secret"))));
            genuine += 1;
        }
        publish(&mut ledger, now);
    }
    assert_eq!(genuine, 20);
    // The first packet, and ten packets per second.
    let flooded = ledger.sequence() - genuine;
    assert!((200..=212).contains(&flooded), "{flooded}");
    // The flood did not displace the packets from the other interface.
    let (_, packets) = ledger.replay("epoch", 0, usize::MAX);
    let genuine = packets
        .iter()
        .filter(|packet| packet.announcement.packet.magic.password() == Some(&Password::Six(*b"secret")));
    assert_eq!((packets.len(), genuine.count()), (4, 2));
}

#[test]
fn an_unpublished_packet_is_not_displaced() {
    let (mut ledger, start) = (ledger(), Instant::now());
    let addresses = (1..=200).map(mac).collect();
    ledger.set_interest(":1.1", addresses, start).unwrap();
    ledger.reconfigure(LedgerSettings { deduplicate: Duration::ZERO, ..SETTINGS });
    let genuine = announced(&mut ledger, frame(1, Some(b"secret"), 9, 1), start).unwrap();
    // The bus is unavailable, and there is a flood for all addresses on the same interface.
    for n in 0..200_000_u32 {
        let now = start + Duration::from_millis(1) * n;
        let target = u8::try_from(1 + n % 200).unwrap();
        let _ = ledger.receive(frame(target, Some(&n.to_be_bytes()), 8, 1), None, STAMP, now);
    }
    let now = start + Duration::from_secs(200);
    let (lost, packets) = ledger.replay("epoch", 0, usize::MAX);
    assert!(!lost && packets.len() <= MAX_UNPUBLISHED_INTERESTING, "{}", packets.len());
    assert_eq!(packets.first().unwrap().announcement.sequence, genuine);
    for target in 1..=200 {
        let has_target = |packet: &&StoredPacket| packet.announcement.packet.magic.target() == mac(target);
        assert_eq!(packets.iter().filter(has_target).count(), 8, "{target}");
    }
    // There is room for another interface.
    assert!(announced(&mut ledger, frame(1, Some(b"secret"), 9, 2), now).is_some());
    assert_eq!(ledger.counters(Transport::Ethernet).received, 200_002);

    // After ten minutes, unpublished packets time out and make room.
    let now = now + Duration::from_secs(601);
    assert!(announced(&mut ledger, frame(1, None, 9, 1), now).is_some());
    assert!(ledger.replay("epoch", 0, usize::MAX).0);
}

#[test]
fn a_packet_that_does_not_fit_does_not_use_a_budget() {
    let (mut ledger, now) = (ledger(), Instant::now());
    ledger.set_interest(":1.1", BTreeSet::from([mac(1)]), now).unwrap();
    let send = |ledger: &mut Ledger, sources: std::ops::Range<u8>| {
        sources.filter(|source| announced(ledger, frame(1, None, *source, 1), now).is_some()).count()
    };
    assert_eq!(send(&mut ledger, 0..100), 8);
    publish(&mut ledger, now);
    assert_eq!(send(&mut ledger, 100..200), 3);
}

#[test]
fn a_packet_is_not_a_copy_of_a_limited_packet() {
    let (mut ledger, start) = (ledger(), Instant::now());
    for target in 100..106 {
        let _ = ledger.receive(frame(target, None, 9, 1), None, STAMP, start);
    }
    let later = start + Duration::from_secs(1);
    assert!(announced(&mut ledger, frame(105, None, 9, 1), later).is_some());
}

#[test]
fn replays_both_rings_in_order_and_reports_losses() {
    let (mut ledger, now) = (ledger(), Instant::now());
    ledger.set_interest(":1.1", BTreeSet::from([mac(1)]), now).unwrap();
    for (target, source) in [(1, 1), (100, 1), (1, 2), (100, 2), (1, 3)] {
        assert!(announced(&mut ledger, frame(target, None, source, 1), now).is_some());
        publish(&mut ledger, now);
    }
    let (lost, packets) = ledger.replay("epoch", 0, usize::MAX);
    assert_eq!((lost, sequences(&packets)), (false, vec![1, 2, 3, 4, 5]));
    let (lost, packets) = ledger.replay("epoch", 3, usize::MAX);
    assert_eq!((lost, sequences(&packets)), (false, vec![4, 5]));
    // Pages contain packets from both rings.
    for (after, page) in [(0, vec![1, 2]), (2, vec![3, 4]), (4, vec![5]), (5, vec![])] {
        assert_eq!(sequences(&ledger.replay("epoch", after, 2).1), page);
    }
    let (_, packets) = ledger.replay("another epoch", 3, usize::MAX);
    assert_eq!(packets.len(), 5);

    // When two more packets of interest are published, they displace sequence 1. Other packets stay.
    for source in [4, 5] {
        assert!(announced(&mut ledger, frame(1, None, source, 1), now).is_some());
    }
    assert_eq!(ledger.replay("epoch", 0, usize::MAX).1.len(), 7);
    publish(&mut ledger, now);
    let (lost, packets) = ledger.replay("epoch", 0, usize::MAX);
    assert_eq!((lost, sequences(&packets)), (true, vec![2, 3, 4, 5, 6, 7]));
    assert!(!ledger.replay("epoch", 1, usize::MAX).0);
}

#[test]
fn returns_a_password_while_its_packet_is_stored() {
    let (mut ledger, now) = (ledger(), Instant::now());
    let with = announced(&mut ledger, frame(1, Some(b"secret"), 1, 1), now).unwrap();
    let without = announced(&mut ledger, frame(1, None, 1, 1), now).unwrap();
    assert_eq!(ledger.password("epoch", with), Some(Some(Password::Six(*b"secret"))));
    assert_eq!(ledger.password("epoch", without), Some(None));
    assert_eq!(ledger.password("another epoch", with), None);
    assert_eq!(ledger.password("epoch", 99), None);
    publish(&mut ledger, now);
    ledger.reconfigure(LedgerSettings { remember: 1, ..SETTINGS });
    assert_eq!(ledger.password("epoch", with), None);
    assert_eq!(ledger.password("epoch", without), Some(None));
}

#[test]
fn works_with_rings_of_size_zero() {
    let (mut ledger, now) = (ledger(), Instant::now());
    ledger.reconfigure(LedgerSettings { deduplicate: Duration::ZERO, remember: 0, ..SETTINGS });
    assert_eq!(announced(&mut ledger, frame(1, None, 1, 1), now), Some(1));
    assert_eq!(announced(&mut ledger, frame(1, None, 1, 1), now), Some(2));
    assert_eq!(ledger.replay("epoch", 0, usize::MAX).1.len(), 2);
    publish(&mut ledger, now);
    assert!(ledger.replay("epoch", 0, usize::MAX).1.is_empty());
    assert!(ledger.replay("epoch", 0, usize::MAX).0);
}
