use std::collections::HashMap;

use zbus::Variant;

use super::*;

pub(in crate::announcer::listener) const OWNER: &str = ":1.7";
const OTHER_SENDER: &str = ":1.8";

pub(in crate::announcer::listener) fn serial(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

pub(in crate::announcer::listener) fn filter_for(owner: Option<Option<&str>>) -> MessageFilter {
    let owner = owner.map(|owner| owner.map(name));
    MessageFilter {
        owner,
        owner_call: serial(103),
        match_calls: [serial(101), serial(102)],
        replay_call: None,
    }
}

fn name(name: &str) -> OwnedUniqueName {
    OwnedUniqueName::try_from(name).unwrap()
}

fn signal(sender: &str, path: &str, member: &str, mac: &str) -> Message {
    let details = HashMap::from([("interface", Variant::from("br0")), ("new-key", Variant::from(1_u32))]);
    Message::signal(path, CAPTURE_INTERFACE, member).sender(sender).build(&(5_u64, mac, details)).unwrap()
}

fn magic_packet(sender: &str) -> Message {
    signal(sender, CAPTURE_PATH, MAGIC_PACKET, "52:54:00:00:00:01")
}

fn owner_changed(sender: &str, new: &str) -> Message {
    Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged")
        .sender(sender)
        .build(&(CAPTURE_NAME, "", new))
        .unwrap()
}

/// A call with this serial, to which a test replies.
fn call(number: u32) -> Message {
    Message::method_call("/", "Any").serial(serial(number)).build(&()).unwrap()
}

#[test]
fn accepts_packets_only_from_the_owner() {
    let mut filter = filter_for(Some(Some(OWNER)));
    let Incoming::Packet(packet) = filter.classify(&magic_packet(OWNER)).unwrap() else {
        panic!("not accepted")
    };
    assert_eq!(packet.mac, "52:54:00:00:00:01".parse().unwrap());
    assert_eq!(packet.sequence, 5);
    assert_eq!(packet.details.interface.as_deref(), Some("br0"));
    assert_eq!(
        filter.classify(&magic_packet(OTHER_SENDER)).unwrap(),
        Incoming::Forged(OTHER_SENDER.to_owned())
    );
}

#[test]
fn accepts_no_packet_without_an_owner() {
    assert_eq!(
        filter_for(Some(None)).classify(&magic_packet(OWNER)).unwrap(),
        Incoming::Forged(OWNER.to_owned())
    );
    assert_eq!(
        filter_for(None).classify(&magic_packet(OWNER)).unwrap(),
        Incoming::Other,
        "the owner is not known yet"
    );
}

#[test]
fn tracks_the_owner_in_stream_order() {
    let mut filter = filter_for(Some(Some(OWNER)));
    assert_eq!(
        filter.classify(&owner_changed(BUS, OTHER_SENDER)).unwrap(),
        Incoming::Owner(Some(name(OTHER_SENDER)))
    );
    assert_eq!(filter.classify(&magic_packet(OWNER)).unwrap(), Incoming::Forged(OWNER.to_owned()));
    assert!(matches!(filter.classify(&magic_packet(OTHER_SENDER)).unwrap(), Incoming::Packet(_)));
    assert_eq!(filter.classify(&owner_changed(BUS, "")).unwrap(), Incoming::Owner(None));
    assert_eq!(
        filter.classify(&magic_packet(OTHER_SENDER)).unwrap(),
        Incoming::Forged(OTHER_SENDER.to_owned())
    );
}

#[test]
fn accepts_owner_changes_only_from_the_bus() {
    let mut filter = filter_for(Some(Some(OWNER)));
    assert_eq!(filter.classify(&owner_changed(OTHER_SENDER, OTHER_SENDER)).unwrap(), Incoming::Other);
    assert!(matches!(filter.classify(&magic_packet(OWNER)).unwrap(), Incoming::Packet(_)));
}

#[test]
fn learns_the_owner_from_the_reply_of_the_bus() {
    let mut filter = filter_for(None);
    let reply = Message::method_return(&call(103).header()).build(&OWNER).unwrap();
    assert_eq!(filter.classify(&reply).unwrap(), Incoming::Owner(Some(name(OWNER))));
    let mut filter = filter_for(None);
    let reply =
        Message::error(&call(103).header(), "org.freedesktop.DBus.Error.NameHasNoOwner").build(&"no owner");
    assert_eq!(filter.classify(&reply.unwrap()).unwrap(), Incoming::Owner(None));
    // The reply to another call is ignored.
    let other = Message::method_return(&call(104).header()).build(&OTHER_SENDER).unwrap();
    assert_eq!(filter.classify(&other).unwrap(), Incoming::Other);
}

#[test]
fn fails_if_the_bus_rejects_the_subscription() {
    let error =
        Message::error(&call(102).header(), "org.freedesktop.DBus.Error.LimitsExceeded").build(&"too many");
    let Err(BusError::Bus(zbus::Error::FDO(error))) = filter_for(None).classify(&error.unwrap()) else {
        panic!()
    };
    assert!(matches!(*error, zbus::fdo::Error::LimitsExceeded(_)));
}

#[test]
fn ignores_other_signals_and_invalid_bodies() {
    let mut filter = filter_for(Some(Some(OWNER)));
    for message in [
        signal(OWNER, "/elsewhere", MAGIC_PACKET, "52:54:00:00:00:01"),
        signal(OWNER, CAPTURE_PATH, "Other", "52:54:00:00:00:01"),
        signal(OWNER, CAPTURE_PATH, MAGIC_PACKET, "nonsense"),
        Message::signal(CAPTURE_PATH, CAPTURE_INTERFACE, MAGIC_PACKET).sender(OWNER).build(&"short").unwrap(),
    ] {
        assert_eq!(filter.classify(&message).unwrap(), Incoming::Other, "{message:?}");
    }
}

#[test]
fn bounds_the_alternative_names_of_an_interface() {
    let alternatives = |value: Variant<'static>| {
        let details =
            HashMap::from([("interface", Variant::from("eth0")), ("interface-alternatives", value)]);
        let message = Message::signal(CAPTURE_PATH, CAPTURE_INTERFACE, MAGIC_PACKET).sender(OWNER);
        let message = message.build(&(5_u64, "52:54:00:00:00:01", details)).unwrap();
        let Incoming::Packet(packet) = filter_for(Some(Some(OWNER))).classify(&message).unwrap() else {
            panic!("not accepted")
        };
        packet.details.alternatives
    };
    let two = vec!["enp1s0".to_owned(), "enx525400000001".to_owned()];
    assert_eq!(alternatives(two.clone().into()), two);
    let long = vec!["x".repeat(127), "x".repeat(128), "x".repeat(1 << 20)];
    assert_eq!(alternatives(long.into()), ["x".repeat(127)]);
    let many: Vec<String> = (0..10_000).map(|number| format!("name{number}")).collect();
    assert_eq!(alternatives(many.into()).len(), 16);
    assert!(alternatives("a string".into()).is_empty());
}

#[test]
fn accepts_only_the_reply_to_its_own_call() {
    let details = HashMap::from([("epoch", Variant::from("e"))]);
    let stored = vec![(4_u64, "52:54:00:00:00:01", details)];
    let reply =
        |number| Message::method_return(&call(number).header()).build(&("e", false, true, &stored)).unwrap();
    let mut filter = MessageFilter { replay_call: Some(serial(105)), ..filter_for(Some(Some(OWNER))) };
    assert_eq!(filter.classify(&reply(104)).unwrap(), Incoming::Other);
    let Incoming::Replay(ReplayReply::Page(page)) = filter.classify(&reply(105)).unwrap() else {
        panic!("no reply")
    };
    assert_eq!((page.epoch.as_str(), page.more), ("e", true));
    assert_eq!(
        page.packets.iter().map(|it| (it.sequence, it.details.epoch.as_deref())).collect::<Vec<_>>(),
        [(4, Some("e"))]
    );
    assert_eq!(filter.classify(&reply(105)).unwrap(), Incoming::Other, "the call already has a reply");
    for (error, expected) in [("AccessDenied", ReplayReply::Failed), ("LimitsExceeded", ReplayReply::Busy)] {
        let mut filter = MessageFilter { replay_call: Some(serial(105)), ..filter_for(Some(Some(OWNER))) };
        let error = Message::error(&call(105).header(), format!("org.freedesktop.DBus.Error.{error}"));
        assert_eq!(filter.classify(&error.build(&"no").unwrap()).unwrap(), Incoming::Replay(expected));
    }
    // A new owner cancels the pending call.
    let mut filter = MessageFilter { replay_call: Some(serial(105)), ..filter_for(Some(Some(OWNER))) };
    filter.classify(&owner_changed(BUS, OTHER_SENDER)).unwrap();
    assert_eq!(filter.classify(&reply(105)).unwrap(), Incoming::Other);
}
