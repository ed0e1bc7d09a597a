//! What the two processes of capture say to each other: it is read as it was written, and nothing
//! else is read.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may stop where it stands")]

use core::fmt::Debug;
use core::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wakevirt_protocol::sniffer::{
    BadMessage, Counters, FromSniffer, MAX_MESSAGE, MAX_OUTGOING, MAX_PORTS, MAX_REASON, Mode, Request,
    Start, ToSniffer, VERSION,
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
        .prop_filter_map("a group", |(mac, password)| MagicPacket::new(mac, password))
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
    any::<[u64; 5]>().prop_map(|[malformed, truncated, dropped_raw, dropped_udp, dropped_channel]| Counters {
        malformed,
        truncated,
        dropped_raw,
        dropped_udp,
        dropped_channel,
    })
}

fn from_sniffer() -> impl Strategy<Value = FromSniffer> {
    let vlan = option::of((1..4095_u16).prop_map(|id| VlanId::try_from(id).unwrap()));
    let sighting = (magic(), carrier(), vlan, any::<u32>()).prop_map(|(magic, carrier, vlan, interface)| {
        CapturedPacket { packet: ParsedPacket { magic, carrier, vlan }, interface }
    });
    let mode = prop_oneof![Just(Mode::Raw), Just(Mode::Udp)];
    prop_oneof![
        1 => (mode, any::<bool>()).prop_map(|(mode, landlock)| FromSniffer::Ready { mode, landlock }),
        1 => "\\PC{0,75}".prop_map(|reason| FromSniffer::Failed { reason }),
        4 => sighting.prop_map(FromSniffer::Packet),
        1 => counters().prop_map(FromSniffer::Counters),
    ]
}

fn to_sniffer() -> impl Strategy<Value = ToSniffer> {
    let request = prop_oneof![Just(Request::Auto), Just(Request::Raw), Just(Request::Udp)];
    let most = u8::try_from(MAX_OUTGOING).unwrap();
    let start = (request, vec(any::<u16>(), 0..=MAX_PORTS), 0..=most, any::<bool>());
    prop_oneof![
        start.prop_map(|(request, ports, outgoing, require_landlock)| ToSniffer::Start(Start {
            request,
            ports,
            outgoing,
            require_landlock,
        })),
        (0..most, 1..=u32::MAX).prop_map(|(slot, interface)| ToSniffer::Outgoing { slot, interface }),
        Just(ToSniffer::Report),
    ]
}

/// What both lists have in common.
trait Message: Sized + Debug + PartialEq {
    fn written(&self) -> Result<Vec<u8>, BadMessage>;
    fn read(datagram: &[u8]) -> Result<Self, BadMessage>;
}

macro_rules! message {
    ($type:ty) => {
        impl Message for $type {
            fn written(&self) -> Result<Vec<u8>, BadMessage> {
                self.encode(&mut [0; MAX_MESSAGE]).map(<[u8]>::to_vec)
            }

            fn read(datagram: &[u8]) -> Result<Self, BadMessage> {
                Self::decode(datagram)
            }
        }
    };
}

message!(FromSniffer);
message!(ToSniffer);

/// The message is read as it was written: whole, and neither cut off, lengthened, nor of another version.
fn is_read_as_written<M: Message>(message: &M) -> Result<(), TestCaseError> {
    let mut datagram = message.written().unwrap();
    let read = M::read(&datagram);
    prop_assert_eq!(read.as_ref(), Ok(message));
    for length in 1..datagram.len() {
        prop_assert_eq!(M::read(&datagram[..length]).unwrap_err(), BadMessage::Malformed);
    }
    datagram.push(0);
    prop_assert_eq!(M::read(&datagram).unwrap_err(), BadMessage::Trailing(1));
    for version in (0..=255).filter(|version| *version != VERSION) {
        datagram[0] = version;
        prop_assert_eq!(M::read(&datagram).unwrap_err(), BadMessage::Version(version));
    }
    Ok(())
}

/// What is read at all is a message that can be written, and read again.
fn is_refused_or_a_message<M: Message>(datagram: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = M::read(datagram) {
        let again = M::read(&message.written().unwrap());
        prop_assert_eq!(again, Ok(message));
    }
    Ok(())
}

/// Messages with a few bytes changed, and random bytes: most of them of the right version.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let written = prop_oneof![
        from_sniffer().prop_map(|message| message.written().unwrap()),
        to_sniffer().prop_map(|message| message.written().unwrap()),
    ];
    let changed =
        (written, vec(any::<(prop::sample::Index, u8)>(), 1..4)).prop_map(|(mut bytes, changes)| {
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
    fn from_the_sniffer_is_read_as_written(message in from_sniffer()) {
        is_read_as_written(&message)?;
    }

    #[test]
    fn to_the_sniffer_is_read_as_written(message in to_sniffer()) {
        is_read_as_written(&message)?;
    }

    #[test]
    fn hostile_bytes_are_refused_or_a_message(datagram in hostile()) {
        is_refused_or_a_message::<FromSniffer>(&datagram)?;
        is_refused_or_a_message::<ToSniffer>(&datagram)?;
    }
}

#[test]
fn nothing_is_no_message() {
    assert_eq!(FromSniffer::decode(&[]), Err(BadMessage::Empty));
    assert_eq!(FromSniffer::decode(&[VERSION]), Err(BadMessage::Malformed));
}

#[test]
fn a_longer_datagram_than_any_message_is_refused_unread() {
    let datagram = [VERSION; MAX_MESSAGE + 1];
    assert_eq!(FromSniffer::decode(&datagram), Err(BadMessage::TooLong(MAX_MESSAGE + 1)));
    assert_eq!(ToSniffer::decode(&datagram), Err(BadMessage::TooLong(MAX_MESSAGE + 1)));
}

/// Each limit is kept by who writes, and held against who reads: the values behind the limit are
/// put together by hand, as an enemy would.
#[test]
fn limits_hold_for_writing_and_for_reading() {
    let failed = |length: usize| FromSniffer::Failed { reason: "x".repeat(length) };
    assert_eq!(
        failed(MAX_REASON).written().map(|bytes| FromSniffer::read(&bytes)),
        Ok(Ok(failed(MAX_REASON)))
    );
    assert_eq!(failed(MAX_REASON + 1).written(), Err(BadMessage::DoesNotFit));
    // Postcard: the number of the variant, the length as a varint, the text.
    let reason = [&[VERSION, 1, 0xad, 0x02][..], &[b'x'; MAX_REASON + 1]].concat();
    assert_eq!(FromSniffer::read(&reason), Err(BadMessage::Malformed));

    let start = |ports, outgoing| {
        ToSniffer::Start(Start { request: Request::Auto, ports, outgoing, require_landlock: true })
    };
    let most = u8::try_from(MAX_OUTGOING).unwrap();
    assert!(start(vec![9; MAX_PORTS], most).written().is_ok());
    assert_eq!(start(vec![9; MAX_PORTS + 1], most).written(), Err(BadMessage::DoesNotFit));
    assert_eq!(start(vec![9], most + 1).written(), Err(BadMessage::DoesNotFit));
    let ports = [&[VERSION, 0, 0, 65][..], &[9; 65], &[0, 1]].concat();
    assert_eq!(ToSniffer::read(&ports), Err(BadMessage::Malformed));

    let outgoing = |slot, interface| ToSniffer::Outgoing { slot, interface };
    assert!(outgoing(most - 1, 2).written().is_ok());
    assert_eq!(outgoing(most, 2).written(), Err(BadMessage::DoesNotFit));
    assert_eq!(outgoing(0, 0).written(), Err(BadMessage::DoesNotFit));
    assert_eq!(ToSniffer::read(&[VERSION, 1, 0, 0]), Err(BadMessage::Malformed));
    assert_eq!(ToSniffer::read(&[VERSION, 1, most, 2]), Err(BadMessage::Malformed));
}

#[test]
fn values_that_no_sniffer_has_are_refused() {
    let heard = ParsedPacket {
        magic: MagicPacket::new(MacAddr::new([2, 0, 0, 0, 0, 1]), None).unwrap(),
        carrier: Carrier::Ethernet { ethertype: None, source: None },
        vlan: Some(VlanId::try_from(5).unwrap()),
    };
    let good = FromSniffer::Packet(CapturedPacket { packet: heard, interface: 2 }).written().unwrap();
    // Version, variant, target, no password, Ethernet, no EtherType, no source, a VLAN, interface.
    assert_eq!(good, [VERSION, 2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 5, 2]);
    for (what, place, value) in [
        ("a target that is a group", 2, &[3][..]),
        ("neither a password nor none", 8, &[9]),
        ("a fourth kind of carrier", 9, &[3]),
        ("VLAN 0", 13, &[0]),
        ("VLAN 4101", 13, &[0x85, 0x20]),
        ("a fifth kind of message", 1, &[4]),
    ] {
        let mut bad = good.clone();
        bad.splice(place..=place, value.iter().copied());
        assert_eq!(FromSniffer::read(&bad), Err(BadMessage::Malformed), "{what}");
    }
}
