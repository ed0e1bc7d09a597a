//! Compares the parser with a second one that shares only its result types, on payloads and frames that are almost
//! valid.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

mod common;
mod naive;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use wakevirt_protocol::MagicPacket;
use wakevirt_protocol::frame::{Frame, Ports, Rejection, parse_frame};
use wakevirt_protocol::link::LinkType;

use common::*;
use naive::Found;

const CONFIGURED: [u16; 4] = [0, 7, 9, 4000];

/// Addresses that resemble the stream, each other or a group address.
fn address() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        4 => Just(TARGET),
        1 => Just([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]),
        1 => Just([0xfe, 0xff, 0xff, 0xff, 0xff, 0x02]),
        1 => Just([0x02; 6]),
        1 => Just([0x02, 0, 0xff, 0x02, 0, 0xff]),
        1 => Just([0; 6]),
        1 => Just([0xff; 6]),
        1 => Just([0x01, 0, 0x5e, 0, 0, 1]),
        2 => proptest::array::uniform6(prop_oneof![Just(0xff), Just(0), any::<u8>()]),
    ]
}

/// About six 0xFF bytes, about sixteen copies, and perhaps a wrong byte.
fn near_miss() -> impl Strategy<Value = Vec<u8>> {
    let sync = prop_oneof![4 => Just(6_usize), 2 => 4..9_usize, 1 => 0..200_usize];
    let copies = prop_oneof![5 => Just(16_usize), 2 => 14..19_usize, 1 => 0..42_usize];
    let wrong = prop_oneof![3 => Just(None), 1 => any::<(prop::sample::Index, u8)>().prop_map(Some)];
    (sync, address(), copies, 0..6_usize, wrong).prop_map(|(sync, address, copies, part, wrong)| {
        let mut bytes = stream(sync, address, copies, &address[..part]);
        if let Some((index, change)) = wrong
            && !bytes.is_empty()
        {
            let index = index.index(bytes.len());
            bytes[index] ^= change;
        }
        bytes
    })
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..12),
        vec(any::<u8>(), 0..120),
        vec(prop_oneof![Just(0xff), Just(0), Just(0x52)], 0..120),
        (any::<u8>(), 0..120_usize).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

/// Near misses, with or without noise between them.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![3 => near_miss(), 1 => noise()].boxed();
    let late = prop_oneof![1 => Just(vec![]), 1 => noise()];
    // Sometimes the pieces extend beyond the bytes that are searched.
    let count = prop_oneof![24 => 0..5_usize, 1 => 12..24_usize];
    let pieces = count.prop_flat_map(move |count| vec(piece.clone(), count));
    (late, pieces).prop_map(|(late, pieces)| [late, pieces.concat()].concat())
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![3 => prop::sample::select(&CONFIGURED[..]), 1 => Just(40000), 1 => any::<u16>()]
}

/// The true length (`None`), or any other.
fn length() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![6 => Just(None), 1 => (0..300_u16).prop_map(Some), 1 => any::<u16>().prop_map(Some)]
}

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    (port(), length(), payload()).prop_map(|(port, length, payload)| Udp { port, length }.wrap(&payload))
}

fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let ihl = prop_oneof![9 => Just(None), 1 => (0..16_u8).prop_map(Some)];
    let fragment = prop_oneof![6 => Just(0), 1 => Just(0x2000), 1 => any::<u16>()];
    let protocol = prop_oneof![9 => Just(17), 1 => any::<u8>()];
    (ihl, 0..11_usize, length(), fragment, protocol, datagram()).prop_map(
        |(ihl, words, length, fragment, protocol, datagram)| {
            Ipv4 { ihl, options: vec![1; 4 * words], length, fragment, protocol, version: 4 }.wrap(&datagram)
        },
    )
}

fn ipv6() -> impl Strategy<Value = Vec<u8>> {
    let kinds =
        prop::sample::select(vec![HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS, 59]);
    let whole = (kinds, 0..4_u8).prop_map(|(kind, more)| extension(kind, more));
    let part = (0..3_u16, any::<bool>()).prop_map(|(offset, more)| fragment(offset, more));
    let broken = (any::<u8>(), vec(any::<u8>(), 0..20));
    let extensions = vec(prop_oneof![18 => whole, 2 => part, 1 => broken], 0..6);
    let protocol = prop_oneof![9 => Just(17), 1 => any::<u8>()];
    (extensions, protocol, length(), datagram()).prop_map(|(extensions, protocol, length, datagram)| {
        Ipv6 { extensions, protocol, length, version: 6 }.wrap(&datagram)
    })
}

/// A frame with up to three tags, sometimes with a few wrong bytes, or truncated.
fn frame() -> impl Strategy<Value = (Option<u16>, Vec<u8>)> {
    let layer3 = prop_oneof![
        3 => ipv4().prop_map(|packet| (0x0800, packet)),
        3 => ipv6().prop_map(|packet| (0x86dd, packet)),
        1 => payload().prop_map(|payload| (0x0842, payload)),
        1 => (any::<u16>(), payload()),
        1 => (0..0x0700_u16, payload()),
    ];
    let tag =
        (prop::sample::select(vec![0x8100, 0x88a8, 0x9100]), prop_oneof![Just(0), Just(5), any::<u16>()]);
    let removed = prop::option::weighted(0.3, any::<u16>());
    let wrong = prop_oneof![2 => Just(vec![]), 1 => vec(any::<(prop::sample::Index, u8)>(), 0..4)];
    let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
    let tags = prop_oneof![9 => vec(tag.clone(), 0..3), 1 => vec(tag, 3)];
    (tags, layer3, removed, wrong, cut).prop_map(|(tags, (ethertype, packet), removed, wrong, cut)| {
        let mut bytes = tagged(&tags, ethertype, &packet);
        for (index, value) in wrong {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        (removed, bytes)
    })
}

/// The results of the library's parser and of the naive parser.
type Both = (Result<Vec<Found>, Rejection>, Vec<Found>);

/// Both results for a frame; `None` if its link header is truncated.
fn both(tag: Option<u16>, bytes: &[u8]) -> Option<Both> {
    let frame = Frame { tag, ..LinkType::Ethernet.strip(bytes)? };
    let parsed = parse_frame(&frame, &Ports::new(CONFIGURED.to_vec()));
    let parsed = parsed.map(|packets| packets.map(Found::from).collect());
    let source = bytes[6..12].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let ethertype = u16::from_be_bytes([bytes[12], bytes[13]]);
    Some((parsed, naive::frame(Some(source), tag, ethertype, &bytes[14..], &CONFIGURED)))
}

proptest! {
    #![proptest_config(Config { cases: 5_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn agrees_on_near_misses(payload in payload()) {
        prop_assert_eq!(naive::magics(MagicPacket::find(&payload)), naive::anywhere(&payload));
        prop_assert_eq!(naive::magics(MagicPacket::at_start(&payload)), naive::at_start(&payload));
    }

    #[test]
    fn agrees_on_frames((tag, bytes) in frame()) {
        if let Some((parsed, expected)) = both(tag, &bytes) {
            prop_assert!(parsed != Ok(vec![]), "an accepted frame contains no packet");
            prop_assert_eq!(parsed.as_deref().unwrap_or_default(), expected, "parsed {:?}", parsed);
        }
    }

    #[test]
    fn agrees_on_random_bytes(
        ethertype in prop::sample::select(vec![0x0800, 0x86dd, 0x8100, 0x0842, 0x88b5]),
        payload in vec(any::<u8>(), 0..200),
    ) {
        let frame = ethernet(ethertype, &payload);
        let (parsed, expected) = both(None, &frame).unwrap();
        prop_assert_eq!(parsed.unwrap_or_default(), expected);
    }
}

/// The comparison is useful only if the frames cover all results.
#[test]
fn covers_every_transport_and_every_rejection() {
    let mut runner = TestRunner::deterministic();
    let frame = frame();
    let mut seen = BTreeMap::<String, u32>::new();
    let mut packets_per_frame = BTreeMap::<usize, u32>::new();
    for _ in 0..5_000 {
        let (tag, bytes) = frame.new_tree(&mut runner).unwrap().current();
        let kind = match both(tag, &bytes) {
            Some((Ok(found), _)) => {
                *packets_per_frame.entry(found.len()).or_default() += 1;
                found[0].carrier.split(' ').next().unwrap().to_owned()
            }
            Some((Err(rejection), _)) => format!("{rejection:?}"),
            None => continue,
        };
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(seen.len(), 3 + 7, "{seen:?}");
    assert!(seen.values().all(|count| *count > 25), "{seen:?}");
    assert!(
        [1, 2, 3].iter().all(|count| packets_per_frame.get(count) > Some(&15)),
        "{packets_per_frame:?} packets in a frame"
    );
}
