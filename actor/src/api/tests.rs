use std::collections::BTreeMap;

use roxmltree::{Document, Node, ParsingOptions};
use tokio::sync::mpsc;
use uuid::Uuid;
use wakevirt_protocol::bus::PacketDetails;
use zbus::DBusError as _;
use zbus::object_server::Interface as _;

use super::listing::LARGEST_REPLY;
use super::*;
use crate::model::Authority;
use crate::model::Packet;
use crate::model::Subject;
use crate::model::{Id, State};
use zbus::wire::serialized::Context;
use zbus::wire::{LE, serialized_size};

const XML: &str = include_str!("../../../dbus/org.wakevirt.Actor1.xml");
const MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);

/// Each member with its arguments and annotations.
fn members(xml: &str) -> BTreeMap<String, Vec<Vec<(String, String)>>> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).unwrap();
    let is_interface = |node: &Node<'_, '_>| node.attribute("name") == Some("org.wakevirt.Actor1");
    let interface = document.descendants().find(is_interface).unwrap();
    let attributes = |node: Node<'_, '_>| {
        node.attributes().map(|it| (it.name().to_owned(), it.value().to_owned())).collect::<Vec<_>>()
    };
    let member = |node: Node<'_, '_>| {
        let name = format!("{} {:?}", node.tag_name().name(), attributes(node));
        (name, node.children().filter(Node::is_element).map(attributes).collect())
    };
    interface.children().filter(Node::is_element).map(member).collect()
}

#[test]
fn is_what_the_reference_says() {
    let interface = Actor1 {
        requests: Requests::new(mpsc::channel(1).0),
        reloads: mpsc::channel(1).0,
        status: watch::channel(Status::default()).1,
        gate: Gate::new(None),
        lost: LostPackets::default(),
    };
    let mut introspected = String::new();
    interface.introspect_to_writer(&mut introspected, 0);
    assert_eq!(members(&introspected), members(XML));
    assert!(!members(XML).is_empty());
}

fn id() -> Id {
    Id { connection: "test:///".into(), uuid: Uuid::nil() }
}

fn finished(outcome: Outcome, packet: Option<Packet>) -> WakeReply {
    let domain = Some((id(), "win11".to_owned()));
    let subject =
        Subject { mac: Some(MAC), domain, rule: Some("domain = \"win11\"".to_owned()), packet, caller: None };
    WakeReply::Decided(Arc::new(Decision { subject, outcome, reason: "because".to_owned(), time: 1 }))
}

#[test]
fn a_reply_means_success_and_an_error_says_why() {
    let name = |answer| match reply(&answer, &WakeTarget::Mac(MAC)) {
        Ok(outcome) => outcome,
        Err(error) => format!("{}: {}", error.name(), error.description().unwrap()),
    };
    assert_eq!(name(finished(Outcome::Started, None)), "started");
    assert_eq!(name(finished(Outcome::AlreadyRunning, None)), "already-running");
    assert_eq!(name(finished(Outcome::Resumed, None)), "resumed");
    assert_eq!(name(finished(Outcome::Woken, None)), "woken");
    assert_eq!(
        name(finished(Outcome::Failed, None)),
        "org.wakevirt.Error.Failed: win11 was not woken: because"
    );
    assert_eq!(name(finished(Outcome::Ambiguous, None)), "org.wakevirt.Error.Ambiguous: because");
    assert!(
        name(WakeReply::UnknownDomain).starts_with("org.wakevirt.Error.NoSuchDomain: no domain has the MAC")
    );
    let away = name(WakeReply::HypervisorAway("test:///".to_owned()));
    assert!(
        away.starts_with("org.wakevirt.Error.HypervisorAway: no such domain is known, and test:/// cannot")
    );
}

/// The body's keys, each with the signature of its value.
fn signatures(dict: &Dict) -> BTreeMap<&str, String> {
    dict.iter().map(|(key, value)| (*key, value.value_signature().to_string())).collect()
}

#[test]
fn details_have_the_keys_that_apply() {
    let details_of = |answer| match answer {
        WakeReply::Decided(finished) => details(&finished),
        _ => unreachable!(),
    };
    let call = details_of(finished(Outcome::Started, None));
    let expected = ["connection", "reason", "rule", "trigger", "uuid"].map(|key| (key, "s".to_owned()));
    assert_eq!(signatures(&call), BTreeMap::from(expected.clone()));
    let details = PacketDetails {
        epoch: Some("e".to_owned()),
        interface: Some("br0".to_owned()),
        source: Some([192, 168, 1, 7].into()),
        source_mac: Some(MAC),
        ..PacketDetails::default()
    };
    let packet = details_of(finished(Outcome::Started, Some(Packet { mac: MAC, sequence: 7, details })));
    let mut expected = BTreeMap::from(expected);
    let of_packet =
        [("epoch", "s"), ("sequence", "t"), ("interface", "s"), ("source", "s"), ("source-mac", "s")];
    expected.extend(of_packet.map(|(key, signature)| (key, signature.to_owned())));
    assert_eq!(signatures(&packet), expected);
}

#[test]
fn an_entry_of_the_list_has_the_keys_that_apply() {
    let entry = listed(Listed {
        id: id(),
        name: "win11".to_owned(),
        macs: vec![MAC],
        state: State::Running,
        rule: Some("mac = \"*\"".to_owned()),
        last_wake: Some(1),
    });
    let expected = [
        ("allowed", "b"),
        ("connection", "s"),
        ("last-wake", "t"),
        ("macs", "as"),
        ("name", "s"),
        ("rule", "s"),
        ("state", "s"),
        ("uuid", "s"),
    ];
    assert_eq!(signatures(&entry), expected.map(|(key, signature)| (key, signature.to_owned())).into());
}

#[test]
fn a_reply_takes_so_many_bytes_and_no_more() {
    let domain = |name: String| {
        let macs = vec![MAC; 256];
        listed(Listed { id: id(), name, macs, state: State::Running, rule: None, last_wake: None })
    };
    let entry = || domain("a".repeat(255));
    let fitting = Listing::of(std::iter::repeat_with(entry).take(10_000));
    let size = *serialized_size(Context::new(LE, 0), &fitting).unwrap();
    let one = *serialized_size(Context::new(LE, 0), &entry()).unwrap();
    assert!((LARGEST_REPLY - 2 * one..=LARGEST_REPLY + 8).contains(&size), "{size}, each {one}");
    assert!(one < 16 * 1024, "so that a page always has some: {one}");
    assert_eq!(Listing::of(std::iter::empty()).len(), 0);
}

#[test]
fn a_decision_of_the_past_tells_what_its_signal_told() {
    let WakeReply::Decided(finished) = finished(Outcome::Started, None) else { unreachable!() };
    let caller = Some(Caller { user: 1000, by: Authority::Group });
    let subject = Subject { caller, ..finished.subject.clone() };
    let finished = Decision { subject, ..Decision::clone(&finished) };
    let entry = remembered(7, &finished);
    // The signal goes to everyone, and does not tell who called.
    let own = [
        ("authority", "s"),
        ("caller", "u"),
        ("domain", "s"),
        ("mac", "s"),
        ("number", "t"),
        ("outcome", "s"),
        ("time", "t"),
    ];
    let mut expected = signatures(&entry);
    expected.retain(|key, _| !details(&finished).contains_key(key));
    assert_eq!(expected, own.map(|(key, signature)| (key, signature.to_owned())).into());
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_that_the_wake_goes_on() {
    let (requests, mut asked) = mpsc::channel(1);
    let interface = Actor1 {
        requests: Requests::new(requests),
        reloads: mpsc::channel(1).0,
        status: watch::channel(Status::default()).1,
        gate: Gate::new(None),
        lost: LostPackets::default(),
    };
    let began = tokio::time::Instant::now();
    let (reply, _asked) = tokio::join!(
        interface.wake_target(WakeTarget::Mac(MAC), Caller { user: 0, by: Authority::User }),
        asked.recv()
    );
    assert_eq!(reply.unwrap(), "held");
    assert!(began.elapsed() < Duration::from_secs(20));
}
