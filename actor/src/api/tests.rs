use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roxmltree::{Document, Node, ParsingOptions};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use zbus::DBusError as _;
use zbus::object_server::Interface as _;
use zbus::wire::serialized::Context;
use zbus::wire::{LE, serialized_size};

use super::access::Authorizer;
use super::body::{Dict, wake_reply};
use super::page::{MAX_REPLY, ReplyPage};
use super::*;
use crate::announcer::LostPackets;
use crate::engine::Status;
use crate::engine::report::Decision;
use crate::engine::request::{ListedDomain, Requests, WakeReply};
use crate::model::{Authority, Caller, Id, Outcome, Packet, State, Subject, WakeTarget};

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
fn matches_the_xml_reference() {
    let interface = Actor1 {
        requests: Requests::new(mpsc::channel(1).0),
        reloads: mpsc::channel(1).0,
        status: watch::channel(Status::default()).1,
        valid: watch::channel(true).1,
        authorizer: Authorizer::new(None, None),
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

fn decided(outcome: Outcome, packet: Option<Packet>) -> WakeReply {
    let domain = Some((id(), "win11".to_owned()));
    let subject =
        Subject { mac: Some(MAC), domain, rule: Some("domain = \"win11\"".to_owned()), packet, caller: None };
    WakeReply::Decided(Arc::new(Decision::new(subject, outcome, "because".to_owned(), 1)))
}

#[test]
fn replies_with_the_outcome_or_an_error() {
    let name = |reply| match wake_reply(&reply, &WakeTarget::Mac(MAC)) {
        Ok(outcome) => outcome,
        Err(error) => format!("{}: {}", error.name(), error.description().unwrap()),
    };
    assert_eq!(name(decided(Outcome::Started, None)), "started");
    assert_eq!(name(decided(Outcome::AlreadyRunning, None)), "already-running");
    assert_eq!(name(decided(Outcome::Resumed, None)), "resumed");
    assert_eq!(name(decided(Outcome::Woken, None)), "woken");
    assert_eq!(
        name(decided(Outcome::Failed, None)),
        "org.wakevirt.Error.Failed: win11 was not woken: because"
    );
    assert_eq!(name(decided(Outcome::Ambiguous, None)), "org.wakevirt.Error.Ambiguous: because");
    assert!(
        name(WakeReply::UnknownDomain).starts_with("org.wakevirt.Error.NoSuchDomain: no domain has the MAC")
    );
    let unavailable = name(WakeReply::HypervisorUnavailable("test:///".to_owned()));
    assert!(unavailable.starts_with(
        "org.wakevirt.Error.HypervisorUnavailable: no such domain is known; unavailable: test:///"
    ));
}

/// The body's keys, each with the signature of its value.
fn signatures(dict: &Dict) -> BTreeMap<&str, String> {
    dict.iter().map(|(key, value)| (*key, value.value_signature().to_string())).collect()
}

#[test]
fn details_contain_only_the_keys_that_apply() {
    let details_of = |reply| match reply {
        WakeReply::Decided(decision) => wake_details(&decision),
        _ => unreachable!(),
    };
    let call = details_of(decided(Outcome::Started, None));
    let expected = ["connection", "reason", "rule", "trigger", "uuid"].map(|key| (key, "s".to_owned()));
    assert_eq!(signatures(&call), BTreeMap::from(expected.clone()));
    let details = PacketDetails {
        epoch: Some("e".to_owned()),
        interface: Some("br0".to_owned()),
        source: Some([192, 168, 1, 7].into()),
        source_mac: Some(MAC),
        ..PacketDetails::default()
    };
    let packet = details_of(decided(Outcome::Started, Some(Packet { mac: MAC, sequence: 7, details })));
    let mut expected = BTreeMap::from(expected);
    let packet_keys =
        [("epoch", "s"), ("sequence", "t"), ("interface", "s"), ("source", "s"), ("source-mac", "s")];
    expected.extend(packet_keys.map(|(key, signature)| (key, signature.to_owned())));
    assert_eq!(signatures(&packet), expected);
}

#[test]
fn domain_entries_contain_only_the_keys_that_apply() {
    let entry = domain_entry(ListedDomain {
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
fn bounds_the_size_of_a_reply() {
    let domain = |name: String| {
        let macs = vec![MAC; 256];
        domain_entry(ListedDomain {
            id: id(),
            name,
            macs,
            state: State::Running,
            rule: None,
            last_wake: None,
        })
    };
    let entry = || domain("a".repeat(255));
    let fitting = ReplyPage::fill(std::iter::repeat_with(entry).take(10_000));
    let size = *serialized_size(Context::new(LE, 0), &fitting).unwrap();
    let one = *serialized_size(Context::new(LE, 0), &entry()).unwrap();
    assert!((MAX_REPLY - 2 * one..=MAX_REPLY + 8).contains(&size), "{size}, each {one}");
    assert!(one < 16 * 1024, "each entry fits into a reply: {one}");
    assert_eq!(ReplyPage::fill(std::iter::empty()).len(), 0);
}

#[test]
fn a_history_entry_contains_the_details_of_the_signal() {
    let WakeReply::Decided(decision) = decided(Outcome::Started, None) else { unreachable!() };
    let caller = Some(Caller { user: 1000, authority: Authority::Group });
    let subject = Subject { caller, ..decision.subject.clone() };
    let decision = Decision { subject, ..Decision::clone(&decision) };
    let entry = history_entry(7, &decision);
    // The signal does not contain the caller, because everyone receives it.
    let additional = [
        ("authority", "s"),
        ("caller", "u"),
        ("domain", "s"),
        ("mac", "s"),
        ("number", "t"),
        ("outcome", "s"),
        ("time", "t"),
    ];
    let mut expected = signatures(&entry);
    expected.retain(|key, _| !wake_details(&decision).contains_key(key));
    assert_eq!(expected, additional.map(|(key, signature)| (key, signature.to_owned())).into());
}

#[tokio::test(start_paused = true)]
async fn replies_that_a_slow_wake_is_held() {
    let (requests, mut received) = mpsc::channel(1);
    let interface = Actor1 {
        requests: Requests::new(requests),
        reloads: mpsc::channel(1).0,
        status: watch::channel(Status::default()).1,
        valid: watch::channel(true).1,
        authorizer: Authorizer::new(None, None),
        lost: LostPackets::default(),
    };
    let start = tokio::time::Instant::now();
    let (reply, _received) = tokio::join!(
        interface.wake_target(WakeTarget::Mac(MAC), Caller { user: 0, authority: Authority::User }),
        received.recv()
    );
    assert_eq!(reply.unwrap(), "held");
    assert!(start.elapsed() < Duration::from_secs(20));
}
