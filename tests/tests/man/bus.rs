//! Dictionaries, members and errors of the bus interfaces, from the services' code and the XML.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;
use wakevirt_actor::api as actor;
use wakevirt_actor::engine::report::Decision;
use wakevirt_actor::engine::request::ListedDomain;
use wakevirt_actor::model::Outcome;
use wakevirt_actor::model::Packet;
use wakevirt_actor::model::Subject;
use wakevirt_actor::model::{Authority, Caller};
use wakevirt_actor::model::{Domain, Id, Labels, State, Stop};
use wakevirt_capture::bus as capture;
use wakevirt_capture::network::links::Interface;
use wakevirt_capture::packets::ring::{Announcement, StoredPacket};
use wakevirt_protocol::bus::{Error, PacketDetails};
use wakevirt_protocol::packet::{UdpPath, VlanId};
use wakevirt_protocol::{Carrier, MacAddr, MagicPacket, ParsedPacket, Stamp};
use wakevirt_tests::bus::introspection::{members, reference};
use zbus::DBusError as _;

const MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);

type Dict = HashMap<&'static str, zbus::Variant<'static>>;

/// The keys of a packet's details with their types, for all transports.
pub fn packet_details() -> BTreeSet<String> {
    fn path<A>(source: A, destination: A) -> UdpPath<A> {
        UdpPath { source_mac: Some(MAC), source, source_port: 1, destination, destination_port: 9 }
    }
    let carriers = [
        Carrier::Ethernet { ethertype: Some(0x0842), source: Some(MAC) },
        Carrier::Udp4(path([192, 168, 1, 7].into(), [192, 168, 1, 255].into())),
        Carrier::Udp6(path([1; 16].into(), [2; 16].into())),
    ];
    let details = carriers.map(|carrier| {
        let magic = MagicPacket::new(MAC, None).unwrap();
        let packet = ParsedPacket { magic, carrier, vlan: VlanId::from_tci(7) };
        let stamp = Stamp { timestamp: 1, boottime: Some(1) };
        let eth0 = Interface { name: "eth0".to_owned(), alternatives: vec!["enp1s0".to_owned()] };
        let announcement = Announcement { sequence: 1, packet, interface: Some(eth0.into()), stamp };
        capture::stored_details(&StoredPacket { announcement: Arc::new(announcement), copies: 1 }, "epoch")
    });
    details.iter().flat_map(keys).collect()
}

/// The keys in the details of `WakeFinished` with their types, and the additional keys in `History`.
pub fn decision() -> (BTreeSet<String>, BTreeSet<String>) {
    let details = PacketDetails {
        epoch: Some("epoch".to_owned()),
        interface: Some("br0".to_owned()),
        vlan: Some(10),
        source: Some([192, 168, 1, 7].into()),
        source_mac: Some(MAC),
        ..PacketDetails::default()
    };
    let packet = Packet { mac: MAC, sequence: 1, details };
    let subject = Subject::new(Some(MAC), Some(&domain()), Some("rule".to_owned()), Some(&packet));
    let finished = Decision::new(subject, Outcome::Started, "reason".to_owned(), 1);
    let signal = keys(&actor::wake_details(&finished));
    let caller = Caller { user: 1000, authority: Authority::Polkit };
    let called = Decision {
        subject: Subject { packet: None, caller: Some(caller), ..finished.subject.clone() },
        ..finished.clone()
    };
    let history: BTreeSet<String> =
        [&finished, &called].into_iter().flat_map(|it| keys(&actor::history_entry(1, it))).collect();
    let additional = history.difference(&signal).cloned().collect();
    (signal, additional)
}

/// The keys of an entry in `ListDomains` with their types.
pub fn listed() -> BTreeSet<String> {
    let Domain { id, name, state, .. } = domain();
    let rule = Some("rule".to_owned());
    keys(&actor::domain_entry(ListedDomain { id, name, macs: vec![MAC], state, rule, last_wake: Some(1) }))
}

/// The outcomes of a wake.
pub fn outcomes() -> BTreeSet<String> {
    let outcomes = Outcome::ALL.iter().map(Outcome::to_string);
    outcomes.chain([actor::HELD.to_owned()]).collect()
}

/// The names of the errors in the XML of the interface.
pub fn errors(interface: &str) -> BTreeSet<String> {
    errors_in(&reference(interface))
}

/// The methods of the interface, each with the errors in the comment above it.
pub fn errors_of_methods(interface: &str) -> Vec<(String, BTreeSet<String>)> {
    let xml = reference(interface);
    let comments = xml.split("<!--").skip(1).filter_map(|rest| rest.split_once("-->"));
    let methods = comments.filter_map(|(comment, rest)| {
        let name = rest.trim_start().strip_prefix("<method name=\"")?.split('"').next()?;
        Some((name.to_owned(), errors_in(comment)))
    });
    let methods: Vec<_> = methods.collect();
    assert!(methods.iter().any(|(_, errors)| !errors.is_empty()), "dbus/{interface}.xml names no errors");
    methods
}

/// The errors that this text names, with or without prefix.
pub fn errors_in(text: &str) -> BTreeSet<String> {
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let is_named = |name: &String| words.contains(name.rsplit('.').next().unwrap());
    all_errors().into_iter().filter(is_named).collect()
}

/// The names of all errors.
pub fn all_errors() -> BTreeSet<String> {
    let kinds: [fn(String) -> Error; 9] = [
        Error::InvalidArgument,
        Error::NotAuthorized,
        Error::LimitExceeded,
        Error::Forgotten,
        Error::NoSecureOn,
        Error::NoSuchDomain,
        Error::Ambiguous,
        Error::HypervisorUnavailable,
        Error::Failed,
    ];
    let name = |kind: fn(String) -> Error| {
        let error = kind(String::new());
        // If an error is added, this no longer compiles. Add the error to the list above as well.
        match error {
            Error::ZBus(_)
            | Error::InvalidArgument(_)
            | Error::NotAuthorized(_)
            | Error::LimitExceeded(_)
            | Error::Forgotten(_)
            | Error::NoSecureOn(_)
            | Error::NoSuchDomain(_)
            | Error::Ambiguous(_)
            | Error::HypervisorUnavailable(_)
            | Error::Failed(_) => error.name().to_string(),
        }
    };
    kinds.into_iter().map(name).collect()
}

/// The members of this kind in the XML of the interface, in the notation of the pages.
pub fn members_of(interface: &str, kind: &str) -> BTreeSet<String> {
    const CHANGES: &str = "org.freedesktop.DBus.Property.EmitsChangedSignal=";
    let members = members(&reference(interface), interface);
    let members = members.iter().filter_map(|member| member.strip_prefix(kind)?.strip_prefix(' '));
    let plain = |member: &str| match member.split_once(" read") {
        None => member.to_owned(),
        Some((property, "")) => format!("{property} change signal"),
        Some((property, annotation)) if annotation.contains(&format!("{CHANGES}const")) => {
            format!("{property} constant")
        }
        Some((property, annotation)) if annotation.contains(&format!("{CHANGES}false")) => {
            format!("{property} no change signal")
        }
        Some(_) => panic!("{interface}: the pages have no notation for {member}"),
    };
    members.map(plain).collect()
}

fn domain() -> Domain {
    let id = Id { connection: "test:///default".into(), uuid: Uuid::nil() };
    Domain {
        id,
        name: "win11".to_owned(),
        macs: [MAC].into_iter().collect(),
        opt_in: false,
        labels: Labels::default(),
        state: State::Running,
        stop: Stop::Unknown,
    }
}

fn keys(dict: &Dict) -> BTreeSet<String> {
    dict.iter().map(|(key, value)| format!("{key} {}", value.value_signature())).collect()
}
