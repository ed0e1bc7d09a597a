use std::collections::HashMap;

use zbus::Variant;
use zbus::fdo::Error as BusError;

use super::*;

pub(in crate::announcer::listener) const OWNER: &str = ":1.7";
const STRANGER: &str = ":1.8";

pub(in crate::announcer::listener) fn serial(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

pub(in crate::announcer::listener) fn subscription(owner: Option<Option<&str>>) -> Subscription {
    let owner = owner.map(|owner| owner.map(name));
    Subscription { owner, question: serial(103), subscriptions: [serial(101), serial(102)], replay: None }
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

/// A call of this number, to be answered.
fn call(number: u32) -> Message {
    Message::method_call("/", "Any").serial(serial(number)).build(&()).unwrap()
}

#[test]
fn believes_the_owner_alone() {
    let mut subscription = subscription(Some(Some(OWNER)));
    let Incoming::Packet(packet) = subscription.handle(&magic_packet(OWNER)).unwrap() else {
        panic!("not believed")
    };
    assert_eq!(packet.mac, "52:54:00:00:00:01".parse().unwrap());
    assert_eq!(packet.sequence, 5);
    assert_eq!(packet.details.interface.as_deref(), Some("br0"));
    assert_eq!(subscription.handle(&magic_packet(STRANGER)).unwrap(), Incoming::Forged(STRANGER.to_owned()));
}

#[test]
fn believes_nobody_while_nobody_owns_the_name() {
    assert_eq!(
        subscription(Some(None)).handle(&magic_packet(OWNER)).unwrap(),
        Incoming::Forged(OWNER.to_owned())
    );
    assert_eq!(subscription(None).handle(&magic_packet(OWNER)).unwrap(), Incoming::Other, "not yet known");
}

#[test]
fn follows_the_owner_in_the_order_of_the_stream() {
    let mut subscription = subscription(Some(Some(OWNER)));
    assert_eq!(
        subscription.handle(&owner_changed(BUS, STRANGER)).unwrap(),
        Incoming::Owner(Some(name(STRANGER)))
    );
    assert_eq!(subscription.handle(&magic_packet(OWNER)).unwrap(), Incoming::Forged(OWNER.to_owned()));
    assert!(matches!(subscription.handle(&magic_packet(STRANGER)).unwrap(), Incoming::Packet(_)));
    assert_eq!(subscription.handle(&owner_changed(BUS, "")).unwrap(), Incoming::Owner(None));
    assert_eq!(subscription.handle(&magic_packet(STRANGER)).unwrap(), Incoming::Forged(STRANGER.to_owned()));
}

#[test]
fn a_change_of_the_owner_comes_from_the_bus_alone() {
    let mut subscription = subscription(Some(Some(OWNER)));
    assert_eq!(subscription.handle(&owner_changed(STRANGER, STRANGER)).unwrap(), Incoming::Other);
    assert!(matches!(subscription.handle(&magic_packet(OWNER)).unwrap(), Incoming::Packet(_)));
}

#[test]
fn asks_who_owns_the_name() {
    let mut asked = subscription(None);
    let answer = Message::method_return(&call(103).header()).build(&OWNER).unwrap();
    assert_eq!(asked.handle(&answer).unwrap(), Incoming::Owner(Some(name(OWNER))));
    let mut asked = subscription(None);
    let answer =
        Message::error(&call(103).header(), "org.freedesktop.DBus.Error.NameHasNoOwner").build(&"nobody");
    assert_eq!(asked.handle(&answer.unwrap()).unwrap(), Incoming::Owner(None));
    // Another call's answer is none.
    let other = Message::method_return(&call(104).header()).build(&STRANGER).unwrap();
    assert_eq!(asked.handle(&other).unwrap(), Incoming::Other);
}

#[test]
fn a_bus_that_does_not_tell_is_given_up() {
    let refusal =
        Message::error(&call(102).header(), "org.freedesktop.DBus.Error.LimitsExceeded").build(&"too many");
    let Err(Error::Bus(zbus::Error::FDO(error))) = subscription(None).handle(&refusal.unwrap()) else {
        panic!()
    };
    assert!(matches!(*error, BusError::LimitsExceeded(_)));
}

#[test]
fn passes_over_what_is_no_packet() {
    let mut subscription = subscription(Some(Some(OWNER)));
    for message in [
        signal(OWNER, "/elsewhere", MAGIC_PACKET, "52:54:00:00:00:01"),
        signal(OWNER, CAPTURE_PATH, "Other", "52:54:00:00:00:01"),
        signal(OWNER, CAPTURE_PATH, MAGIC_PACKET, "nonsense"),
        Message::signal(CAPTURE_PATH, CAPTURE_INTERFACE, MAGIC_PACKET).sender(OWNER).build(&"short").unwrap(),
    ] {
        assert_eq!(subscription.handle(&message).unwrap(), Incoming::Other, "{message:?}");
    }
}

#[test]
fn takes_so_many_alternative_names_of_an_interface_and_no_more() {
    let told = |value: Variant<'static>| {
        let details =
            HashMap::from([("interface", Variant::from("eth0")), ("interface-alternatives", value)]);
        let message = Message::signal(CAPTURE_PATH, CAPTURE_INTERFACE, MAGIC_PACKET).sender(OWNER);
        let message = message.build(&(5_u64, "52:54:00:00:00:01", details)).unwrap();
        let Incoming::Packet(packet) = subscription(Some(Some(OWNER))).handle(&message).unwrap() else {
            panic!("not believed")
        };
        packet.details.alternatives
    };
    let two = vec!["enp1s0".to_owned(), "enx525400000001".to_owned()];
    assert_eq!(told(two.clone().into()), two);
    let long = vec!["x".repeat(127), "x".repeat(128), "x".repeat(1 << 20)];
    assert_eq!(told(long.into()), ["x".repeat(127)]);
    let many: Vec<String> = (0..10_000).map(|number| format!("name{number}")).collect();
    assert_eq!(told(many.into()).len(), 16);
    assert!(told("a text".into()).is_empty());
}

#[test]
fn takes_the_answer_to_its_own_question_alone() {
    let details = HashMap::from([("epoch", Variant::from("e"))]);
    let remembered = vec![(4_u64, "52:54:00:00:00:01", details)];
    let answer = |number| {
        Message::method_return(&call(number).header()).build(&("e", false, true, &remembered)).unwrap()
    };
    let mut asked = Subscription { replay: Some(serial(105)), ..subscription(Some(Some(OWNER))) };
    assert_eq!(asked.handle(&answer(104)).unwrap(), Incoming::Other);
    let Incoming::Replay(ReplayReply::Page(page)) = asked.handle(&answer(105)).unwrap() else {
        panic!("no answer")
    };
    assert_eq!((page.epoch.as_str(), page.more), ("e", true));
    assert_eq!(
        page.packets.iter().map(|it| (it.sequence, it.details.epoch.as_deref())).collect::<Vec<_>>(),
        [(4, Some("e"))]
    );
    assert_eq!(asked.handle(&answer(105)).unwrap(), Incoming::Other, "it was answered");
    for (error, expected) in [("AccessDenied", ReplayReply::Refused), ("LimitsExceeded", ReplayReply::Busy)] {
        let mut asked = Subscription { replay: Some(serial(105)), ..subscription(Some(Some(OWNER))) };
        let error = Message::error(&call(105).header(), format!("org.freedesktop.DBus.Error.{error}"));
        assert_eq!(asked.handle(&error.build(&"no").unwrap()).unwrap(), Incoming::Replay(expected));
    }
    // Another owner is asked anew.
    let mut asked = Subscription { replay: Some(serial(105)), ..subscription(Some(Some(OWNER))) };
    asked.handle(&owner_changed(BUS, STRANGER)).unwrap();
    assert_eq!(asked.handle(&answer(105)).unwrap(), Incoming::Other);
}
