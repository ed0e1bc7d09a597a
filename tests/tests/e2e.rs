//! From a packet to a running domain, with both services, a real bus and a real libvirt.

use std::net::Ipv6Addr;

use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, define_all, qemu_domain, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic, tagged, udp6};
use wakevirt_tests::wait::TIMEOUT;
use wakevirt_tests::{privileged, wait};

/// The MAC address of a machine on the network that sends frames.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Creates a bridge with one port, and connects another machine to that port.
fn bridged(host: &Host) -> Peer<'_> {
    host.bridge("br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0; ip address add 192.0.2.1/24 dev br0");
    lan.address("192.0.2.2/24");
    lan
}

/// Starts both services, the announcer first.
fn services(host: &Host, started_by: StartedBy, uri: &str, rules: &str) -> (Daemon, Daemon) {
    let capture = Daemon::capture(host).started_by(started_by).start_ready();
    let config = format!("connections = [\"{uri}\"]\n{rules}");
    let actor = Daemon::actor(host).started_by(started_by).config(&config).start_connected();
    (capture, actor)
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// The name of a kind of packet, and the function that sends one.
type PacketKind = (&'static str, fn(&Peer<'_>, &str));

/// Kinds of magic packets that differ in link layer, protocol, destination, port or password.
const PACKET_KINDS: [PacketKind; 8] = [
    // This frame is unicast. The domain is shut off, so no port of the bridge has its address.
    ("etherwake", |lan, mac| lan.etherwake(mac, &[])),
    ("etherwake to the broadcast address", |lan, mac| lan.etherwake(mac, &["-b"])),
    ("etherwake with a password", |lan, mac| lan.etherwake(mac, &["-p", "192.168.1.1"])),
    ("wakeonlan", |lan, mac| lan.wakeonlan(mac, "192.0.2.255", &[])),
    ("wakeonlan to the host", |lan, mac| lan.wakeonlan(mac, "192.0.2.1", &["-p", "7"])),
    ("a frame in a VLAN", |lan, mac| {
        let frame = ethernet(bytes_of(mac), SENDER, WAKE_ON_LAN, &magic(mac, &[]));
        lan.send(&tagged(&frame, 0x8100, 42));
    }),
    ("a frame in two VLANs", |lan, mac| {
        let frame = ethernet(bytes_of(mac), SENDER, WAKE_ON_LAN, &magic(mac, b"secret"));
        lan.send(&tagged(&tagged(&frame, 0x8100, 42), 0x88a8, 7));
    }),
    ("IPv6 multicast to another port", |lan, mac| {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);
        let packet = udp6(source, all_nodes, 47998, &magic(mac, &[]));
        lan.send(&ethernet([0x33, 0x33, 0, 0, 0, 1], SENDER, 0x86dd, &packet));
    }),
];

#[test]
fn each_kind_of_packet_wakes_its_domain() {
    privileged!();
    for (bus, started_by) in [(Kind::DbusDaemon, StartedBy::Manager), (Kind::DbusBroker, StartedBy::Root)] {
        let host = Host::new();
        let _bus = Bus::start(&host, bus);
        let lan = bridged(&host);
        let libvirtd = Libvirtd::start(&host);
        let domain = |number| test_domain(&format!("vm{number}"), &mac(number));
        define_all(&host, TEST, (0..PACKET_KINDS.len()).map(domain));
        let (mut capture, mut actor) = services(&host, started_by, TEST, "[[allow]]\ndomain = \"vm*\"\n");
        let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
        for (number, (name, send)) in PACKET_KINDS.iter().enumerate() {
            let (domain, mac) = (format!("vm{number}"), mac(number));
            assert_eq!(libvirtd.state(TEST, &domain), "shut off", "before {name}");
            send(&lan, &mac);
            let signal = finished.log().wait_for(&format!("'{mac}', '{domain}', 'started'"));
            assert!(signal.contains("WakeFinished"), "{signal}");
            assert_eq!(libvirtd.state(TEST, &domain), "running", "after {name}");
        }
        // Each packet woke its domain once, even if both the bridge and its port received it.
        assert_eq!(finished.log().count("'started'"), PACKET_KINDS.len());
        actor.stop();
        capture.stop();
    }
}

#[test]
fn a_domain_without_a_rule_stays_off() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = bridged(&host);
    let libvirtd = Libvirtd::start(&host);
    for (number, name) in ["listed", "unlisted", "by-mac"].into_iter().enumerate() {
        libvirtd.define(TEST, &test_domain(name, &mac(number)));
    }
    let rules = format!("[[allow]]\ndomain = \"listed\"\n[[allow]]\nmac = \"{}\"\n", mac(2));
    let (_capture, actor) = services(&host, StartedBy::Manager, TEST, &rules);
    let finished = host.monitor(User::Unprivileged, ACTOR_NAME);

    lan.etherwake(&mac(1), &[]);
    let _ = finished.log().wait_for(&format!("'{}', 'unlisted', 'not-allowed'", mac(1)));
    let _ = actor.log().wait_for("unlisted");
    // A packet for an unknown MAC address, which has no effect.
    lan.etherwake(&mac(9), &[]);
    lan.etherwake(&mac(0), &[]);
    libvirtd.wait_for_state(TEST, "listed", "running");
    lan.etherwake(&mac(2), &[]);
    libvirtd.wait_for_state(TEST, "by-mac", "running");
    assert_eq!(libvirtd.state(TEST, "unlisted"), "shut off");
    assert_eq!(finished.log().count(&mac(9)), 0);
}

#[test]
fn follows_domains_that_libvirt_adds_and_removes() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusBroker);
    let lan = bridged(&host);
    let libvirtd = Libvirtd::start(&host);
    let (_capture, _actor) = services(&host, StartedBy::Manager, TEST, "[[allow]]\ndomain = \"*\"\n");
    let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
    let wait_for_domains = |expected: &str| {
        wait::until_true(&format!("{expected} domains"), || {
            host.property(User::Unprivileged, ACTOR_NAME, "Domains").is_ok_and(|found| found == expected)
        });
    };
    wait_for_domains("(<uint32 1>,)");
    libvirtd.define(TEST, &test_domain("late", &mac(1)));
    wait_for_domains("(<uint32 2>,)");
    lan.etherwake(&mac(1), &[]);
    libvirtd.wait_for_state(TEST, "late", "running");
    libvirtd.virsh(TEST, &["destroy", "late"]);
    libvirtd.virsh(TEST, &["undefine", "late"]);
    wait_for_domains("(<uint32 1>,)");
    libvirtd.define(TEST, &test_domain("later", &mac(1)));
    wait_for_domains("(<uint32 2>,)");
    // Another domain now has the MAC address. The sender differs, so the packet is not a duplicate.
    lan.send(&ethernet(BROADCAST, SENDER, WAKE_ON_LAN, &magic(&mac(1), &[])));
    let _ = finished.log().wait_for(&format!("'{}', 'later', 'started'", mac(1)));
}

/// Metadata with an undeclared namespace prefix. libvirt accepts and returns it, but a namespace-aware XML parser
/// rejects it.
const UNREADABLE: &str = "<metadata><a:b xmlns:a='urn:a'><undeclared:c/></a:b></metadata>";

/// A domain with a definition that the actor cannot parse.
fn unreadable_domain(name: &str, mac: &str) -> String {
    test_domain(name, mac).replace("</name>", &format!("</name>{UNREADABLE}"))
}

#[test]
fn an_unreadable_domain_does_not_affect_others() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = bridged(&host);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &unreadable_domain("bad1", &mac(1)));
    libvirtd.define(TEST, &test_domain("good", &mac(2)));
    let config = "cool-down = \"0s\"\n[[allow]]\ndomain = \"*\"\n";
    let (_capture, actor) = services(&host, StartedBy::Manager, TEST, config);
    let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
    let warning = actor.log().wait_for("domain \"bad1\" cannot be read, and therefore cannot be woken");
    assert!(warning.contains("undeclared"), "{warning}");

    // One such domain exists when the actor starts, and one is added later.
    libvirtd.define(TEST, &unreadable_domain("bad2", &mac(3)));
    let uuid = libvirtd.virsh(TEST, &["domuuid", "bad2"]);
    let _ = actor.log().wait_for(&format!("domain {uuid} has changed but cannot be read"));
    for bad in [1, 3] {
        lan.etherwake(&mac(bad), &["-b"]);
    }
    lan.etherwake(&mac(2), &["-b"]);
    let _ = finished.log().wait_for(&format!("'{}', 'good', 'started'", mac(2)));
    for bad in ["bad1", "bad2"] {
        assert_eq!(libvirtd.state(TEST, bad), "shut off");
        // The quotes are necessary, because the log also contains random hexadecimal text.
        assert_eq!(finished.log().count(&format!("'{bad}'")), 0);
    }

    // With a valid definition, each of them can be woken.
    for (name, number) in [("bad1", 1), ("bad2", 3)] {
        let uuid = libvirtd.virsh(TEST, &["domuuid", name]);
        let valid = test_domain(name, &mac(number));
        libvirtd.define(TEST, &valid.replace("</name>", &format!("</name><uuid>{uuid}</uuid>")));
    }
    wait::until_true("four domains", || {
        host.property(User::Unprivileged, ACTOR_NAME, "Domains").is_ok_and(|found| found == "(<uint32 4>,)")
    });
    for (name, number) in [("bad1", 1), ("bad2", 3)] {
        lan.send(&ethernet(BROADCAST, SENDER, WAKE_ON_LAN, &magic(&mac(number), &[])));
        let _ = finished.log().wait_for(&format!("'{}', '{name}', 'started'", mac(number)));
    }
    // The actor did not reconnect to libvirt.
    assert_eq!(actor.log().count("connected to"), 1);
}

#[test]
fn wakes_a_domain_after_the_bus_restarts() {
    privileged!();
    for kind in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let lan = bridged(&host);
        // libvirtd starts before the bus, and therefore does not connect to it. Otherwise, libvirtd would exit with the
        // bus.
        let libvirtd = Libvirtd::start(&host);
        let mut bus = Bus::start(&host, kind);
        libvirtd.define(TEST, &test_domain("vm1", &mac(1)));
        let (mut capture, mut actor) =
            services(&host, StartedBy::Manager, TEST, "[[allow]]\ndomain = \"*\"\n");
        let epoch = host.property(User::Unprivileged, CAPTURE_NAME, "Epoch").unwrap();

        bus.kill();
        bus.start_again();
        for (name, service) in [(CAPTURE_NAME, &capture), (ACTOR_NAME, &actor)] {
            let reconnected = wait::within(TIMEOUT, || host.name_is_owned(name).then_some(()));
            assert!(
                reconnected.is_some(),
                "{kind:?}: {name} has no owner:\n{}",
                service.log().all().join("\n")
            );
        }
        assert_eq!(host.property(User::Unprivileged, CAPTURE_NAME, "Epoch").unwrap(), epoch, "{kind:?}");
        // The actor owns its name before it receives packets again. When it does, it logs this line for the second
        // time.
        let _ = actor.log().wait_for_nth("receiving packets from the announcer", 2);
        lan.etherwake(&mac(1), &[]);
        libvirtd.wait_for_state(TEST, "vm1", "running");
        actor.stop();
        capture.stop();
    }
}

#[test]
fn starts_a_real_qemu_machine() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = bridged(&host);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(QEMU, &qemu_domain("vm1", &mac(1), "br0"));
    let config = "cool-down = \"0s\"\n[[allow]]\ndomain = \"vm1\"\n";
    let (_capture, _actor) = services(&host, StartedBy::Manager, QEMU, config);
    let finished = host.monitor(User::Unprivileged, ACTOR_NAME);

    lan.etherwake(&mac(1), &[]);
    let _ = finished.log().wait_for(&format!("'{}', 'vm1', 'started'", mac(1)));
    assert_eq!(libvirtd.state(QEMU, "vm1"), "running");
    // QEMU has a tap device on the bridge.
    assert!(host.sh("ip -brief link show master br0").contains("vnet"));

    libvirtd.virsh(QEMU, &["destroy", "vm1"]);
    // The sender differs, so the packet is not a duplicate.
    lan.send(&ethernet(BROADCAST, SENDER, WAKE_ON_LAN, &magic(&mac(1), &[])));
    libvirtd.wait_for_state(QEMU, "vm1", "running");
}
