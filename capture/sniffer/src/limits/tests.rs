use std::time::Duration;

use wakevirt_protocol::sniffer::BATCH;
use wakevirt_protocol::{Carrier, MagicPacket, ParsedPacket};

use super::*;

fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr::new([2, 0, a, b, c, d])
}

fn packet(target: u32, interface: u32, source: u32) -> CapturedPacket {
    let carrier = Carrier::Ethernet { ethertype: Some(0x0842), source: Some(mac(source)) };
    let magic = MagicPacket::new(mac(target), None).unwrap();
    CapturedPacket { packet: ParsedPacket { magic, carrier, vlan: None }, interface }
}

fn interest(added: bool, first: u32) -> Change {
    let mut addresses = [mac(first); BATCH];
    for (n, address) in (first..).zip(&mut addresses) {
        *address = mac(n);
    }
    Change::Interest { added, addresses }
}

/// Decides about packets that arrive within a second, and returns how many are passed.
fn passed(
    limits: &mut Limits,
    from: Instant,
    packets: impl ExactSizeIterator<Item = CapturedPacket>,
) -> usize {
    let count = u32::try_from(packets.len()).unwrap();
    packets
        .zip(0_u32..)
        .filter(|(packet, n)| {
            limits.decide(packet, from + Duration::from_secs(1) * *n / count) == Decision::Pass
        })
        .count()
}

#[test]
fn a_flood_for_other_addresses_suppresses_no_packet_of_interest() {
    let mut limits = Limits::new(100);
    limits.apply(&interest(true, 0)).unwrap();
    let start = Instant::now();
    let rates = Rates::passed(100);
    let strangers = (1000..100_000).map(|n| packet(n, 2, 1));
    let strangers = passed(&mut limits, start, strangers.collect::<Vec<_>>().into_iter());
    let rate = usize::try_from(rates.unknown).unwrap();
    assert!((rate..=2 * rate).contains(&strangers), "{strangers}");
    assert_eq!(limits.decide(&packet(5, 2, 1), start + Duration::from_secs(1)), Decision::Pass);

    // A flood for one address of interest.
    let flood = (0..100_000).map(|n| packet(6, 2, n)).collect::<Vec<_>>().into_iter();
    let flood = passed(&mut limits, start + Duration::from_secs(1), flood);
    let rate = usize::try_from(rates.address).unwrap();
    assert!((rate..=2 * rate + 1).contains(&flood), "{flood}");
    let end = start + Duration::from_secs(2);
    assert_eq!(limits.decide(&packet(6, 2, 200_000), end), Decision::Limited);
    assert_eq!(limits.decide(&packet(7, 2, 1), end), Decision::Pass);
    assert_eq!(limits.decide(&packet(6, 3, 1), end), Decision::Pass);
}

#[test]
fn a_sender_that_repeats_a_packet_suppresses_no_other_sender() {
    let mut limits = Limits::new(100);
    limits.apply(&interest(true, 0)).unwrap();
    let start = Instant::now();
    let copies = (0..10_000).map(|_| packet(5, 2, 1)).collect::<Vec<_>>().into_iter();
    let _passed = passed(&mut limits, start, copies);
    let end = start + Duration::from_secs(1);
    assert_eq!(limits.decide(&packet(5, 2, 1), end), Decision::Duplicate);
    assert_eq!(limits.decide(&packet(5, 2, 2), end), Decision::Pass);
}

#[test]
fn a_sender_that_repeats_many_packets_is_limited_on_its_interface() {
    let mut limits = Limits::new(100);
    limits.apply(&interest(true, 0)).unwrap();
    let start = Instant::now();
    let rates = Rates::passed(100);
    // 4,000 packets, each of them five times in a second.
    let second = |limits: &mut Limits, n: u32| {
        let repeated = (0..20_000).map(|n| packet(1000 + n % 4000, 2, 1)).collect::<Vec<_>>();
        passed(limits, start + Duration::from_secs(n.into()), repeated.into_iter())
    };
    for n in 0..5 {
        let _passed = second(&mut limits, n);
    }
    let most = usize::try_from(rates.unknown + rates.interface).unwrap();
    let passed = second(&mut limits, 5);
    // More than the packets that are not copies.
    let least = usize::try_from(rates.unknown).unwrap() + 2;
    assert!((least..=most + 2).contains(&passed), "{passed}");

    let end = start + Duration::from_secs(6);
    for _ in 0..3 {
        assert_eq!(limits.decide(&packet(5, 3, 1), end), Decision::Pass);
        assert_eq!(limits.decide(&packet(1_000_000, 3, 1), end), Decision::Pass);
    }
    // On the same interface, the first packet is passed, and then at least one in a second.
    let sender = |limits: &mut Limits, n: u32| {
        let now = end + Duration::from_millis(100) * n;
        for repeated in 0..2000 {
            let _decision = limits.decide(&packet(1000 + (2000 * n + repeated) % 4000, 2, 1), now);
        }
        limits.decide(&packet(5, 2, 1), now) == Decision::Pass
    };
    let passed = (0..31).map(|n| sender(&mut limits, n)).collect::<Vec<_>>();
    assert!(passed[0] && passed.chunks_exact(10).all(|second| second.contains(&true)), "{passed:?}");
}

#[test]
fn sets_change_in_batches_up_to_their_maximum() {
    let mut limits = Limits::new(0);
    let max = u32::try_from(MAX_ADDRESSES).unwrap();
    for round in 0..5 {
        let all = || (round * max..(round + 1) * max).step_by(BATCH);
        for first in all() {
            limits.apply(&interest(true, first)).unwrap();
        }
        assert_eq!(limits.interest.len(), MAX_ADDRESSES);
        // A repeated item does not count.
        limits.apply(&interest(true, round * max)).unwrap();
        assert!(limits.apply(&interest(true, (round + 1) * max)).is_err());
        for first in all() {
            limits.apply(&interest(false, first)).unwrap();
        }
        assert_eq!(limits.interest.len(), 0);
    }

    limits.apply(&Change::Excluded { added: true, interfaces: [7; BATCH] }).unwrap();
    assert!(limits.excludes(7) && !limits.excludes(8));
    limits.apply(&Change::Excluded { added: false, interfaces: [7; BATCH] }).unwrap();
    assert!(!limits.excludes(7));
    let too_many = (0..).map(|n| Change::Excluded { added: true, interfaces: [n; BATCH] });
    let accepted = too_many.take_while(|change| limits.apply(change).is_ok()).count();
    assert_eq!(accepted, MAX_EXCLUDED);
}
