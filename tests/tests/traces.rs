//! Files and log lines that the actor writes on its host: the state directory, and the log during a flood of denied
//! packets.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::scene::{ALL_ALLOWED, is_saved};
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";
const OTHER_MAC: &str = "52:54:00:01:02:04";
const UNKNOWN_MAC: &str = "52:54:00:01:02:05";

/// Starts the actor with a connection to the test driver.
fn actor(host: &Host, started_by: StartedBy, config: &str) -> Daemon {
    let config = format!("connections = [\"{TEST}\"]\n{config}");
    Daemon::actor(host).started_by(started_by).config(&config).start_connected()
}

/// Starts libvirtd with two domains that are shut off, the bus, and capture on `lan0`.
fn set_up(host: &Host) -> (Libvirtd<'_>, Bus<'_>, Peer<'_>, Daemon) {
    let libvirtd = Libvirtd::start(host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    libvirtd.define(TEST, &test_domain("vm2", OTHER_MAC));
    let bus = Bus::start(host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let capture = Daemon::capture(host).start_on_bus();
    (libvirtd, bus, lan, capture)
}

/// Path, owner, group, mode and type of the state directory and of each file in it.
fn state_directory(host: &Host) -> String {
    host.sh("find /run/wakevirt-actor -printf '%p %u:%g %m %y\\n' | sort")
}

#[test]
fn actor_started_by_root_creates_the_state_directory() {
    privileged!();
    let host = Host::new();
    let (libvirtd, _bus, lan, _capture) = set_up(&host);
    let mut first = actor(&host, StartedBy::Root, ALL_ALLOWED);
    let expected = "/run/wakevirt-actor wakevirt-actor:wakevirt-actor 700 d\n\
                    /run/wakevirt-actor/state wakevirt-actor:wakevirt-actor 600 f\n";
    assert_eq!(state_directory(&host), expected);
    lan.etherwake(MAC, &[]);
    libvirtd.wait_for_state(TEST, "vm1", "running");
    let _ = first.log().wait_for("started: domain \"vm1\"");
    wait::until_true("the end of the wake to be saved", || !is_saved(&host, b"vm1"));
    libvirtd.virsh(TEST, &["destroy", "vm1"]);

    // After a crash, the actor does not repeat the completed wake, and handles the packet that it missed.
    first.kill();
    lan.etherwake(OTHER_MAC, &[]);
    let mut second = actor(&host, StartedBy::Root, ALL_ALLOWED);
    libvirtd.wait_for_state(TEST, "vm2", "running");
    let _ = second.log().wait_for("started: domain \"vm2\"");
    assert_eq!(libvirtd.state(TEST, "vm1"), "shut off");
    assert_eq!(second.log().count("vm1"), 0);
    second.stop();
    let ended = "/run/wakevirt-actor/ended wakevirt-actor:wakevirt-actor 600 f\n";
    let (before, after) = expected.split_at(expected.find("/run/wakevirt-actor/state").unwrap());
    assert_eq!(state_directory(&host), [before, ended, after].concat());
    assert_eq!(first.log().count("WARN") + second.log().count("WARN"), 0);
}

#[test]
fn does_not_change_the_owner_of_an_existing_directory() {
    privileged!();
    let host = Host::new();
    let (libvirtd, _bus, lan, _capture) = set_up(&host);
    host.sh("mkdir -m 700 /run/wakevirt-actor; touch /run/wakevirt-actor/other");
    let before = state_directory(&host);
    let mut actor = actor(&host, StartedBy::Root, ALL_ALLOWED);
    let _ = actor.log().wait_for("cannot write to /run/wakevirt-actor: Permission denied");
    // The actor works without a state file.
    lan.etherwake(MAC, &[]);
    libvirtd.wait_for_state(TEST, "vm1", "running");
    assert_eq!(state_directory(&host), before);
    actor.stop();
}

/// A frame from this sender. Capture announces packets from different senders separately.
fn packet(mac: &str, sender: u16) -> Vec<u8> {
    let [high, low] = sender.to_be_bytes();
    ethernet(BROADCAST, [2, 0, 0, 0, high, low], WAKE_ON_LAN, &magic(mac, &[]))
}

/// The number of decisions with the outcome `not-allowed`.
fn not_allowed(host: &Host) -> u64 {
    let reply = host.property(User::Unprivileged, ACTOR_NAME, "Outcomes").unwrap();
    let number = reply.split_once("'not-allowed': ").unwrap().1.trim_start_matches("uint64 ");
    number.split(|char: char| !char.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn counts_a_flood_of_denied_packets_and_limits_its_log_lines() {
    privileged!();
    let host = Host::new();
    let (_libvirtd, _bus, lan, _capture) = set_up(&host);
    let mut wire = lan.injector();
    let rules = "log = \"debug\"\nmetadata = false\n[[allow]]\ndomain = \"vm2\"\ninterfaces = [\"br*\"]\n";
    let actor = actor(&host, StartedBy::Manager, rules);
    for sender in 0..500 {
        for mac in [MAC, OTHER_MAC, UNKNOWN_MAC] {
            wire.send(&packet(mac, sender));
        }
    }
    let not_allowed = || not_allowed(&host);
    wait::until_true("capture to receive all packets", || host.counter(CAPTURE_NAME, "Received") == 1500);
    wait::until_true("each packet to be dropped by a limit, denied, or counted as unknown", || {
        let unknown = host.counter(ACTOR_NAME, "UnknownPackets");
        not_allowed() + unknown + host.counter(CAPTURE_NAME, "Limited") == 1500
    });
    // More than the log limiter passes. On a busy machine, capture limits most of them.
    assert!(not_allowed() > 20, "only {} of 1000 reached the actor", not_allowed());
    for (kind, text, lines) in [
        // The actor logs three lines a minute, and one with the number of suppressed lines. The test takes less than two
        // minutes.
        ("no rule", "not-allowed: domain \"vm1\"", 3..=12),
        ("another interface", "not-allowed: domain \"vm2\"", 3..=12),
        // Only the first packet is logged.
        ("unknown address", "unknown: packet for", 1..=1),
    ] {
        let logged = actor.log().count(text);
        assert!(lines.contains(&logged), "{kind}: {logged} lines in {:#?}", actor.log().all());
    }
}
