//! The journal entry for each kind of decision, with its message ID and its fields.
#![expect(clippy::expect_used, reason = "a test may panic")]

use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_service::logs::kind;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::journal::Journal;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, qemu_domain, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic, tagged};
use wakevirt_tests::{privileged, wait};

/// The MAC address of the other machine on the network.
const SENDER: &str = "02:00:00:00:00:07";
/// The domains of libvirt's test driver, each with the last byte of its MAC address.
const DOMAINS: [(&str, u8); 7] =
    [("vm", 1), ("denied", 2), ("secret", 3), ("twin1", 4), ("twin2", 4), ("paused", 5), ("late", 6)];
/// A QEMU domain that cannot be started, and the last byte of its MAC address.
const BROKEN: (&str, u8) = ("broken", 7);
/// The password file of the `secret` domain.
const PASSWORD: &str = "/etc/wakevirt/secret.secureon";

fn mac(last: u8) -> String {
    format!("52:54:00:00:00:{last:02x}")
}

/// Sends a magic packet in an Ethernet frame, and returns the MAC address in it.
fn send(lan: &Peer<'_>, last: u8) -> String {
    lan.send(&ethernet(BROADCAST, bytes_of(SENDER), WAKE_ON_LAN, &magic(&mac(last), &[])));
    mac(last)
}

/// Waits for the entry about a decision, checks that it has these fields, and returns it.
fn assert_entry(journal: &Journal, id: &str, outcome: &str, fields: &[&str]) -> String {
    let entry = journal.entries().wait_for(&format!("MESSAGE_ID={id} | WAKEVIRT_OUTCOME={outcome} |"));
    for field in fields {
        assert!(entry.contains(&format!("| {field} |")), "no {field} in {entry}");
    }
    entry
}

/// The latency in an entry, in microseconds.
fn latency(entry: &str) -> Option<u64> {
    entry.split("| WAKEVIRT_LATENCY_USEC=").nth(1)?.split(' ').next()?.parse().ok()
}

fn define_domains(host: &Host, libvirtd: &Libvirtd<'_>) {
    for (name, last) in DOMAINS {
        libvirtd.define(TEST, &test_domain(name, &mac(last)));
    }
    libvirtd.define(QEMU, &qemu_domain(BROKEN.0, &mac(BROKEN.1), "no-such-bridge"));
    libvirtd.virsh(TEST, &["start", "paused"]);
    libvirtd.virsh(TEST, &["suspend", "paused"]);
    host.write(PASSWORD, "01:02:03:04");
    host.sh(&format!("chown wakevirt-actor {PASSWORD}; chmod 0400 {PASSWORD}"));
}

/// The actor's configuration.
fn config() -> String {
    let mut config = format!("connections = [\"{TEST}\", \"{QEMU}\"]\nhold = \"5s\"\ncool-down = \"1h\"\n");
    for name in ["vm", "twin*", "paused", "late", BROKEN.0] {
        config += &format!("[[allow]]\ndomain = \"{name}\"\n");
    }
    config + &format!("[[allow]]\ndomain = \"secret\"\nsecure-on = \"{PASSWORD}\"\n")
}

#[test]
fn each_kind_of_decision_has_its_entry() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let journal = Journal::start(&host);
    host.bridge("br0");
    let lan = host.veth("port0");
    let mut libvirtd = Libvirtd::start(&host);
    define_domains(&host, &libvirtd);
    let _capture = Daemon::capture(&host).log_to_journal().start_ready();
    let _actor = Daemon::actor(&host).config(&config()).log_to_journal().start_on_bus();
    let _ = journal.entries().wait_for_nth(kind::HYPERVISOR_CONNECTED, 2);

    assert_packets_have_entries(&journal, &libvirtd, &lan);
    assert_calls_have_entries(&host, &journal);

    libvirtd.kill();
    let _ = journal.entries().wait_for_nth(kind::HYPERVISOR_LOST, 2);
    wait::until_true("the actor to hold wakes", || {
        let connections = host.property(User::Unprivileged, ACTOR_NAME, "Connections");
        connections.is_ok_and(|connections| !connections.contains("true"))
    });
    let of_late = format!("WAKEVIRT_MAC={}", send(&lan, 6));
    let held = journal.entries().wait_for(&format!("MESSAGE_ID={} |", kind::WAKE_HELD));
    assert!(held.contains("| WAKEVIRT_DOMAIN=late |"), "{held}");
    let entry = assert_entry(&journal, kind::WAKE_EXPIRED, "expired", &["WAKEVIRT_DOMAIN=late", &of_late]);
    assert!(latency(&entry).is_some_and(|latency| latency >= 5_000_000), "{entry}");
}

/// Sends packets, and checks the entries of both services about them.
fn assert_packets_have_entries(journal: &Journal, libvirtd: &Libvirtd<'_>, lan: &Peer<'_>) {
    let frame = ethernet(BROADCAST, bytes_of(SENDER), WAKE_ON_LAN, &magic(&mac(1), &[]));
    lan.send(&tagged(&frame, 0x8100, 42));
    let sender = format!("WAKEVIRT_SOURCE={SENDER}");
    let of_packet = ["WAKEVIRT_INTERFACE=port0", "WAKEVIRT_TRANSPORT=ethernet", &sender];
    let (id, domain) = (kind::WAKE_STARTED, "WAKEVIRT_DOMAIN=vm");
    let rule = "WAKEVIRT_RULE=domain = \\\"vm\\\"";
    let of_wake =
        ["WAKEVIRT_MAC=52:54:00:00:00:01", "WAKEVIRT_VLAN=42", "WAKEVIRT_TRIGGER=packet", rule, domain];
    let entry = assert_entry(journal, id, "started", &[of_packet.as_slice(), &of_wake].concat());
    let uuid = entry.split("| WAKEVIRT_UUID=").nth(1).unwrap_or_default();
    assert!(uuid.chars().position(|c| c == ' ') == Some(36), "{entry}");
    assert!(latency(&entry).is_some_and(|latency| latency > 0), "{entry}");
    let announced = journal.entries().wait_for(&format!("MESSAGE_ID={} |", kind::PACKET_ANNOUNCED));
    for field in of_packet.iter().chain(&of_wake[..2]) {
        assert!(announced.contains(&format!("| {field} |")), "no {field} in {announced}");
    }

    libvirtd.virsh(TEST, &["destroy", "vm"]);
    // The VLAN differs, so the packet is not a duplicate.
    let _ = send(lan, 1);
    assert_entry(journal, kind::WAKE_COOLING_DOWN, "cooling-down", &[domain, "WAKEVIRT_VLAN=0"]);
    for (last, id, outcome, domain) in [
        (2, kind::WAKE_NOT_ALLOWED, "not-allowed", Some("denied")),
        (3, kind::WAKE_BAD_PASSWORD, "bad-password", Some("secret")),
        (4, kind::WAKE_AMBIGUOUS, "ambiguous", None),
        (5, kind::WAKE_RESUMED, "resumed", Some("paused")),
        (BROKEN.1, kind::WAKE_FAILED, "failed", Some(BROKEN.0)),
    ] {
        let mac = format!("WAKEVIRT_MAC={}", send(lan, last));
        let entry = assert_entry(journal, id, outcome, &[of_packet.as_slice(), &[&mac]].concat());
        let named = domain.map(|domain| format!("| WAKEVIRT_DOMAIN={domain} |"));
        assert!(named.is_none_or(|named| entry.contains(&named)), "{entry}");
        assert_eq!(domain.is_some(), entry.contains("WAKEVIRT_UUID="), "{entry}");
    }
    let _ = send(lan, 9);
    let unknown = journal.entries().wait_for(&format!("MESSAGE_ID={} |", kind::PACKET_UNKNOWN));
    assert!(unknown.contains("| WAKEVIRT_MAC=52:54:00:00:00:09 |"), "{unknown}");
}

/// Calls the actor, and checks the entry about the call.
fn assert_calls_have_entries(host: &Host, journal: &Journal) {
    let reply = host.call(User::Root, ACTOR_NAME, "WakeDomain", &["'paused'"]);
    assert_eq!(reply.expect("the call succeeds"), "('already-running',)");
    let caller = ["WAKEVIRT_TRIGGER=call", "WAKEVIRT_CALLER=0", "WAKEVIRT_AUTHORITY=user"];
    let of_call = [caller.as_slice(), &["WAKEVIRT_DOMAIN=paused"]].concat();
    let entry = assert_entry(journal, kind::WAKE_ALREADY_RUNNING, "already-running", &of_call);
    assert!(latency(&entry).is_none() && !entry.contains("WAKEVIRT_SOURCE="), "{entry}");
}

#[test]
fn properties_measure_wakes_and_list_unknown_addresses() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("port0");
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm", &mac(1)));
    let _capture = Daemon::capture(&host).start_on_bus();
    let config = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"vm\"\n");
    let actor = Daemon::actor(&host).config(&config).start_connected();
    let _ = actor.log().wait_for("receiving packets from the announcer");
    // All users can read the properties. Only the first number of each type in an array has the type's name.
    let property = |name: &str| {
        let text = host.property(User::Unprivileged, ACTOR_NAME, name).expect("the property is readable");
        text.replace("uint64 ", "").trim_start_matches("(<").trim_end_matches(">,)").to_owned()
    };
    let wakes = || {
        let latency = property("WakeLatency");
        let (buckets, totals) = latency.split_once("], ").expect("buckets, sum and count");
        let numbers: Vec<u64> =
            totals.trim_end_matches(')').split(", ").map_while(|it| it.parse().ok()).collect();
        let last =
            buckets.trim_end_matches(')').rsplit(", ").next().and_then(|count| count.parse::<u64>().ok());
        (last, numbers)
    };
    assert_eq!((property("UnknownAddresses"), wakes()), ("@a(stts) []".to_owned(), (Some(0), vec![0, 0])));

    let _ = send(&lan, 1);
    libvirtd.wait_for_state(TEST, "vm", "running");
    let frame = ethernet(BROADCAST, bytes_of(SENDER), WAKE_ON_LAN, &magic(&mac(9), &[]));
    lan.send(&tagged(&frame, 0x8100, 42));
    let _ = send(&lan, 8);
    // The VLAN differs, so the packet is not a duplicate.
    let _ = send(&lan, 9);
    wait::until_true("the packets to be counted", || host.counter(ACTOR_NAME, "UnknownPackets") == 3);
    wait::until_true("the wake to end", || wakes().1.get(1) == Some(&1));
    let unknown = property("UnknownAddresses");
    let entries: Vec<Vec<&str>> =
        unknown.trim_matches(['[', ']', '(', ')']).split("), (").map(|it| it.split(", ").collect()).collect();
    for (entry, address, packets) in [(0, mac(9), "2"), (1, mac(8), "1")] {
        let entry = entries.get(entry).map(Vec::as_slice).unwrap_or_default();
        let expected = [format!("'{address}'"), packets.to_owned(), "'port0'".to_owned()];
        assert!(matches!(entry, [mac, count, _, name] if [*mac, *count, *name] == expected), "{unknown}");
    }
    assert_eq!(entries.len(), 2, "{unknown}");
    let (in_buckets, totals) = wakes();
    assert!(in_buckets == Some(1) && totals.first().is_some_and(|sum| *sum > 0), "{totals:?}");
}
