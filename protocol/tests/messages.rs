//! The messages between the two processes of capture: decoding returns the encoded message, and rejects everything
//! else.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use core::fmt::Debug;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU32;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wakevirt_protocol::sniffer::{
    BATCH, BadMessage, Change, Counters, FromSniffer, MAX_BOUND, MAX_MESSAGE, MAX_OUTGOING, MAX_PORTS,
    MAX_REASON, Mode, Request, Source, Start, Suppressed, ToSniffer, VERSION, encode_failure,
};
use wakevirt_protocol::{
    CapturedPacket, Carrier, MacAddr, MagicPacket, ParsedPacket, Password, UdpPath, VlanId,
};

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr::new)
}

fn magic() -> impl Strategy<Value = MagicPacket> {
    let password =
        prop_oneof![any::<[u8; 4]>().prop_map(Password::Four), any::<[u8; 6]>().prop_map(Password::Six),];
    (mac(), option::of(password))
        .prop_filter_map("a group address", |(mac, password)| MagicPacket::new(mac, password))
}

fn path<Address: Arbitrary + Copy>() -> impl Strategy<Value = UdpPath<Address>> {
    any::<(Address, u16, Address, u16)>().prop_flat_map(
        |(source, source_port, destination, destination_port)| {
            option::of(mac()).prop_map(move |source_mac| UdpPath {
                source_mac,
                source,
                source_port,
                destination,
                destination_port,
            })
        },
    )
}

fn carrier() -> impl Strategy<Value = Carrier> {
    prop_oneof![
        (any::<Option<u16>>(), option::of(mac()))
            .prop_map(|(ethertype, source)| Carrier::Ethernet { ethertype, source }),
        path::<Ipv4Addr>().prop_map(Carrier::Udp4),
        path::<Ipv6Addr>().prop_map(Carrier::Udp6),
    ]
}

fn counters() -> impl Strategy<Value = Counters> {
    let suppressed =
        || any::<(u64, u64)>().prop_map(|(duplicates, limited)| Suppressed { duplicates, limited });
    (any::<[u64; 5]>(), suppressed(), suppressed(), suppressed()).prop_map(
        |([malformed, truncated, dropped_raw, dropped_udp, dropped_channel], ethernet, udp4, udp6)| {
            Counters { malformed, truncated, dropped_raw, dropped_udp, dropped_channel, ethernet, udp4, udp6 }
        },
    )
}

fn from_sniffer() -> impl Strategy<Value = FromSniffer> {
    let vlan = option::of((1..4095_u16).prop_map(|id| VlanId::try_from(id).unwrap()));
    let captured = (magic(), carrier(), vlan, any::<u32>()).prop_map(|(magic, carrier, vlan, interface)| {
        CapturedPacket { packet: ParsedPacket { magic, carrier, vlan }, interface }
    });
    let mode = prop_oneof![Just(Mode::Raw), Just(Mode::Udp)];
    prop_oneof![
        1 => (mode, any::<bool>()).prop_map(|(mode, landlock)| FromSniffer::Ready { mode, landlock }),
        1 => "\\PC{0,75}".prop_map(|reason| FromSniffer::Failed { reason }),
        4 => captured.prop_map(FromSniffer::Packet),
        1 => counters().prop_map(FromSniffer::Counters),
        1 => Just(FromSniffer::Applied),
    ]
}

fn to_sniffer() -> impl Strategy<Value = ToSniffer> {
    let request = prop_oneof![Just(Request::Auto), Just(Request::Raw), Just(Request::Udp)];
    let max = u8::try_from(MAX_OUTGOING).unwrap();
    let bound = 0..=u8::try_from(MAX_BOUND).unwrap();
    let start = (request, vec(any::<u16>(), 0..=MAX_PORTS), bound, 0..=max, any::<u32>(), any::<bool>());
    let source = prop_oneof![
        Just(Source::All),
        any::<NonZeroU32>().prop_map(Source::Interface),
        any::<NonZeroU32>().prop_map(Source::None),
    ];
    let slot = 0..u8::try_from(MAX_BOUND).unwrap();
    let change = prop_oneof![
        any::<u32>().prop_map(Change::Limit),
        (any::<bool>(), any::<[[u8; 6]; BATCH]>()).prop_map(|(added, addresses)| Change::Interest {
            added,
            addresses: addresses.map(MacAddr::new)
        }),
        (any::<bool>(), any::<[u32; BATCH]>())
            .prop_map(|(added, interfaces)| Change::Excluded { added, interfaces }),
    ];
    prop_oneof![
        start.prop_map(|(request, ports, bound, outgoing, limit, require_landlock)| ToSniffer::Start(
            Start { request, ports, bound, outgoing, limit, require_landlock }
        )),
        (slot, source).prop_map(|(slot, source)| ToSniffer::Incoming { slot, source }),
        change.prop_map(ToSniffer::Change),
        (0..max, 1..=u32::MAX).prop_map(|(slot, interface)| ToSniffer::Outgoing { slot, interface }),
        Just(ToSniffer::Report),
    ]
}

/// What both message types have in common.
trait Message: Sized + Debug + PartialEq {
    fn encoded(&self) -> Result<Vec<u8>, BadMessage>;
    fn decoded(datagram: &[u8]) -> Result<Self, BadMessage>;
}

macro_rules! message {
    ($type:ty) => {
        impl Message for $type {
            fn encoded(&self) -> Result<Vec<u8>, BadMessage> {
                self.encode(&mut [0; MAX_MESSAGE]).map(<[u8]>::to_vec)
            }

            fn decoded(datagram: &[u8]) -> Result<Self, BadMessage> {
                Self::decode(datagram)
            }
        }
    };
}

message!(FromSniffer);
message!(ToSniffer);

/// Decoding returns the message, and rejects it if it is truncated, is extended or has a different version.
fn decodes_only_the_whole_message<M: Message>(message: &M) -> Result<(), TestCaseError> {
    let mut datagram = message.encoded().unwrap();
    let decoded = M::decoded(&datagram);
    prop_assert_eq!(decoded.as_ref(), Ok(message));
    for length in 1..datagram.len() {
        prop_assert_eq!(M::decoded(&datagram[..length]).unwrap_err(), BadMessage::Malformed);
    }
    datagram.push(0);
    prop_assert_eq!(M::decoded(&datagram).unwrap_err(), BadMessage::Trailing(1));
    for version in (0..=255).filter(|version| *version != VERSION) {
        datagram[0] = version;
        prop_assert_eq!(M::decoded(&datagram).unwrap_err(), BadMessage::Version(version));
    }
    Ok(())
}

/// A datagram either is rejected or decodes to a message that can be encoded again.
fn is_rejected_or_decodes_to_a_message<M: Message>(datagram: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = M::decoded(datagram) {
        let again = M::decoded(&message.encoded().unwrap());
        prop_assert_eq!(again, Ok(message));
    }
    Ok(())
}

/// Messages with a few changed bytes, and random bytes. Most have the correct version.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let encoded = prop_oneof![
        from_sniffer().prop_map(|message| message.encoded().unwrap()),
        to_sniffer().prop_map(|message| message.encoded().unwrap()),
    ];
    let changed =
        (encoded, vec(any::<(prop::sample::Index, u8)>(), 1..4)).prop_map(|(mut bytes, changes)| {
            for (index, value) in changes {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            bytes
        });
    let random = vec(any::<u8>(), 0..MAX_MESSAGE + 10);
    let kind =
        (0..5_u8, vec(any::<u8>(), 0..120)).prop_map(|(kind, rest)| [vec![VERSION, kind], rest].concat());
    prop_oneof![3 => changed, 1 => random, 3 => kind]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decodes_messages_from_the_sniffer(message in from_sniffer()) {
        decodes_only_the_whole_message(&message)?;
    }

    #[test]
    fn decodes_messages_to_the_sniffer(message in to_sniffer()) {
        decodes_only_the_whole_message(&message)?;
    }

    #[test]
    fn rejects_hostile_bytes_or_decodes_them_to_a_message(datagram in hostile()) {
        is_rejected_or_decodes_to_a_message::<FromSniffer>(&datagram)?;
        is_rejected_or_decodes_to_a_message::<ToSniffer>(&datagram)?;
    }
}

#[test]
fn rejects_an_empty_message() {
    assert_eq!(FromSniffer::decode(&[]), Err(BadMessage::Empty));
    assert_eq!(FromSniffer::decode(&[VERSION]), Err(BadMessage::Malformed));
}

#[test]
fn rejects_a_datagram_longer_than_any_message() {
    let datagram = [VERSION; MAX_MESSAGE + 1];
    assert_eq!(FromSniffer::decode(&datagram), Err(BadMessage::TooLong(MAX_MESSAGE + 1)));
    assert_eq!(ToSniffer::decode(&datagram), Err(BadMessage::TooLong(MAX_MESSAGE + 1)));
}

/// Encoding and decoding both enforce each limit. Messages that exceed a limit are built by hand, as an attacker would.
#[test]
fn enforces_limits_when_encoding_and_decoding() {
    let failed = |length: usize| FromSniffer::Failed { reason: "x".repeat(length) };
    assert_eq!(
        failed(MAX_REASON).encoded().map(|bytes| FromSniffer::decoded(&bytes)),
        Ok(Ok(failed(MAX_REASON)))
    );
    assert_eq!(failed(MAX_REASON + 1).encoded(), Err(BadMessage::OverLimit));
    let encoded_failure = |length: usize| {
        let mut buffer = [0; MAX_MESSAGE];
        encode_failure(&"x".repeat(length), &mut buffer).map(<[u8]>::to_vec)
    };
    for length in [0, MAX_REASON, MAX_REASON + 1] {
        assert_eq!(encoded_failure(length), failed(length).encoded());
    }
    // Postcard: the number of the variant, the length as a varint, the string.
    let reason = [&[VERSION, 1, 0xad, 0x02][..], &[b'x'; MAX_REASON + 1]].concat();
    assert_eq!(FromSniffer::decoded(&reason), Err(BadMessage::Malformed));

    let start = |ports, bound, outgoing| {
        let request = Request::Auto;
        ToSniffer::Start(Start { request, ports, bound, outgoing, limit: 0, require_landlock: true })
    };
    let (bound, max) = (u8::try_from(MAX_BOUND).unwrap(), u8::try_from(MAX_OUTGOING).unwrap());
    assert!(start(vec![9; MAX_PORTS], bound, max).encoded().is_ok());
    assert_eq!(start(vec![9; MAX_PORTS + 1], bound, max).encoded(), Err(BadMessage::OverLimit));
    assert_eq!(start(vec![9], bound + 1, max).encoded(), Err(BadMessage::OverLimit));
    assert_eq!(start(vec![9], bound, max + 1).encoded(), Err(BadMessage::OverLimit));
    let ports = [&[VERSION, 0, 0, 65][..], &[9; 65], &[0, 0, 0, 1]].concat();
    assert_eq!(ToSniffer::decoded(&ports), Err(BadMessage::Malformed));

    let incoming = |slot| ToSniffer::Incoming { slot, source: Source::All };
    assert!(incoming(bound - 1).encoded().is_ok());
    assert_eq!(incoming(bound).encoded(), Err(BadMessage::OverLimit));
    assert_eq!(ToSniffer::decoded(&[VERSION, 1, bound, 0]), Err(BadMessage::Malformed));
    // Interface 0 means all interfaces in bind(2).
    assert_eq!(ToSniffer::decoded(&[VERSION, 1, 0, 1, 0]), Err(BadMessage::Malformed));
    assert_eq!(ToSniffer::decoded(&[VERSION, 1, 0, 2, 0]), Err(BadMessage::Malformed));

    let outgoing = |slot, interface| ToSniffer::Outgoing { slot, interface };
    assert!(outgoing(max - 1, 2).encoded().is_ok());
    assert_eq!(outgoing(max, 2).encoded(), Err(BadMessage::OverLimit));
    assert_eq!(outgoing(0, 0).encoded(), Err(BadMessage::OverLimit));
    assert_eq!(ToSniffer::decoded(&[VERSION, 2, 0, 0]), Err(BadMessage::Malformed));
    assert_eq!(ToSniffer::decoded(&[VERSION, 2, max, 2]), Err(BadMessage::Malformed));
}

#[test]
fn rejects_invalid_values() {
    let packet = ParsedPacket {
        magic: MagicPacket::new(MacAddr::new([2, 0, 0, 0, 0, 1]), None).unwrap(),
        carrier: Carrier::Ethernet { ethertype: None, source: None },
        vlan: Some(VlanId::try_from(5).unwrap()),
    };
    let good = FromSniffer::Packet(CapturedPacket { packet, interface: 2 }).encoded().unwrap();
    // Version, variant, target, no password, Ethernet, no EtherType, no source, a VLAN, interface.
    assert_eq!(good, [VERSION, 2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 5, 2]);
    for (what, offset, value) in [
        ("a group address as the target", 2, &[3][..]),
        ("an invalid option for the password", 8, &[9]),
        ("a fourth kind of carrier", 9, &[3]),
        ("VLAN 0", 13, &[0]),
        ("VLAN 4101", 13, &[0x85, 0x20]),
        ("a sixth kind of message", 1, &[5]),
    ] {
        let mut bad = good.clone();
        bad.splice(offset..=offset, value.iter().copied());
        assert_eq!(FromSniffer::decoded(&bad), Err(BadMessage::Malformed), "{what}");
    }
}
