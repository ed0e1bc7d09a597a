//! The conditions under which a packet is allowed, from the network to QEMU: ingress interface, VLAN, password, and the
//! domain's metadata.

use std::net::Ipv4Addr;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic, tagged, udp4};
use wakevirt_tests::scene::Scene;
use wakevirt_tests::{privileged, wait};

const VM: &str = "vm1";
const OTHER: &str = "vm2";

/// Checks that the domain has never run.
fn assert_never_started(scene: &Scene<'_>, domain: &str) {
    assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), ("shut off (unknown)", 0), "{domain}");
}

/// Waits for the log line about this decision, and checks the ingress interface in it.
fn assert_logged(scene: &Scene<'_>, outcome: &str, domain: &str, interface: &str) {
    let line = scene.actor().log().wait_for(&format!("{outcome}: domain \"{domain}\""));
    assert!(line.contains(&format!("on \"{interface}\"")), "{line}");
}

#[test]
fn a_denied_copy_does_not_suppress_an_allowed_copy() {
    privileged!();
    let host = Host::new();
    let other_lan = host.veth("lan1");
    let rules = "[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br*\"]\n\
                 [[allow]]\ndomain = \"vm2\"\ninterfaces = [\"lan1\"]\n";
    let scene = Scene::new(&host, &[Machine::new(VM), Machine::new(OTHER)], rules);

    // Capture receives a broadcast on the port, which the rule denies, and on the bridge, which it allows.
    scene.packet(VM, 1);
    let denied = scene.wait_for_outcome(VM, "not-allowed", 1);
    assert!(denied.contains("does not match packets from this interface"), "{denied}");
    assert_logged(&scene, "not-allowed", VM, "port0");
    let _ = scene.wait_for_outcome(VM, "started", 1);
    assert_logged(&scene, "started", VM, "br0");
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (booted)", 1));

    // The same frame, first on the denied network and then on the allowed one.
    let frame = scene.frame(OTHER, 1);
    scene.lan.send(&frame);
    let _ = scene.wait_for_outcome(OTHER, "not-allowed", 2);
    assert_never_started(&scene, OTHER);
    other_lan.send(&frame);
    let _ = scene.wait_for_outcome(OTHER, "started", 1);
    assert_logged(&scene, "started", OTHER, "lan1");
    assert_eq!((scene.state(OTHER).as_str(), scene.starts(OTHER)), ("running (booted)", 1));
    assert_eq!((scene.decisions(VM), scene.decisions(OTHER)), (2, 3));
}

#[test]
fn rules_match_alternative_interface_names() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan1");
    host.sh("ip link property add dev lan1 altname enp7s0 altname an-uplink-with-a-long-name");
    let rules = "[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"an-uplink-*\"]\n\
                 [[allow]]\ndomain = \"vm2\"\ninterfaces = [\"enp7s0\"]\n";
    let scene = Scene::new(&host, &[Machine::new(VM), Machine::new(OTHER)], rules);
    // An interface without the name does not match.
    scene.packet(OTHER, 1);
    let _ = scene.wait_for_outcome(OTHER, "not-allowed", 1);
    assert_never_started(&scene, OTHER);
    for domain in [VM, OTHER] {
        lan.send(&scene.frame(domain, 2));
        let _ = scene.wait_for_outcome(domain, "started", 1);
        assert_logged(&scene, "started", domain, "lan1");
    }
    assert_eq!(scene.actor().log().count("on which wakevirt does not capture packets"), 0);
}

#[test]
fn denies_packets_from_other_vlans() {
    privileged!();
    let host = Host::new();
    let rules = "[[allow]]\ndomain = \"vm1\"\nvlans = [10, 20]\n[[allow]]\ndomain = \"vm2\"\nvlans = [0]\n";
    let scene = Scene::new(&host, &[Machine::new(VM), Machine::new(OTHER)], rules);
    let mut denied = 0;
    let mut assert_denied = |domain: &str, frame: &[u8], vlan: &str| {
        scene.lan.send(frame);
        denied += 1;
        let signal = scene.wait_for_outcome(domain, "not-allowed", denied);
        assert!(signal.contains(vlan), "{vlan}: {signal}");
        assert_never_started(&scene, domain);
    };
    // The frame is addressed to the domain, so capture receives it only on the port.
    let frame = |domain: &str, sender| {
        let sender = [2, 0, 0, 0, 0, sender];
        ethernet(bytes_of(scene.mac(domain)), sender, WAKE_ON_LAN, &magic(scene.mac(domain), &[]))
    };
    assert_denied(VM, &frame(VM, 1), "'vlan': <uint16 0>");
    assert_denied(VM, &tagged(&frame(VM, 2), 0x8100, 30), "'vlan': <uint16 30>");
    assert_denied(VM, &tagged(&frame(VM, 3), 0x8100, 0xe000), "'vlan': <uint16 0>");
    assert_denied(VM, &tagged(&tagged(&frame(VM, 4), 0x8100, 10), 0x88a8, 30), "'vlan': <uint16 30>");
    scene.lan.send(&tagged(&tagged(&frame(VM, 5), 0x8100, 30), 0x88a8, 10));
    let started = scene.wait_for_outcome(VM, "started", 1);
    assert!(started.contains("'vlan': <uint16 10>"), "{started}");
    let line = scene.actor().log().wait_for("started: domain \"vm1\"");
    assert!(line.contains("on \"port0\" in VLAN 10"), "{line}");
    let capture = scene.capture.as_ref().expect("capture is running");
    let _ = capture.log().wait_for("on \"port0\" in VLAN 10");
    // A frame whose tag contains only a priority (VLAN ID 0) does not belong to a VLAN.
    scene.lan.send(&tagged(&frame(OTHER, 6), 0x8100, 0xe000));
    let _ = scene.wait_for_outcome(OTHER, "started", 1);
}

#[test]
fn a_packet_from_a_udp_socket_does_not_match_a_vlan_rule() {
    privileged!();
    let host = Host::new();
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain(VM, "52:54:00:01:02:03"));
    let capture =
        Daemon::capture(&host).config("mode = \"udp\"\nlisten = [\"127.0.0.1:4000\"]\n").start_ready();
    let _ = capture.log().wait_for("receiving only UDP, because of mode");
    // The configuration selects this mode, so capture does not warn.
    assert_eq!(capture.log().count("receiving only UDP, because of mode"), 1, "{:#?}", capture.log().all());
    assert_eq!(capture.log().count("capture receives UDP only"), 0, "{:#?}", capture.log().all());
    let config = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"{VM}\"\nvlans = [0]\n");
    let actor = Daemon::actor(&host).config(&config).start_connected();
    host.sh("wakeonlan -i 127.0.0.1 -p 4000 52:54:00:01:02:03");
    let _ = actor.log().wait_for("the rule does not match packets with an unknown VLAN");
    assert_eq!(libvirtd.state(TEST, VM), "shut off");
    drop(bus);
}

/// Two domains with passwords of four and six bytes, as text in the password file and as bytes.
const PASSWORDS: [(&str, &str, &[u8]); 2] =
    [(VM, "192.168.1.2", &[192, 168, 1, 2]), (OTHER, "01:02:03:04:05:06", &[1, 2, 3, 4, 5, 6])];

/// A scene with rules that require the passwords and allow `port0` only, so copies on the bridge are denied.
fn with_passwords(host: &Host) -> Scene<'_> {
    let mut rules = "cool-down = \"0s\"\n".to_owned();
    for (domain, text, _) in PASSWORDS {
        let file = format!("/etc/wakevirt/{domain}.secureon");
        host.write(&file, text);
        host.sh(&format!("chown wakevirt-actor {file}; chmod 0400 {file}"));
        rules +=
            &format!("[[allow]]\ndomain = \"{domain}\"\ninterfaces = [\"port0\"]\nsecure-on = \"{file}\"\n");
    }
    Scene::new(host, &[Machine::new(VM), Machine::new(OTHER)], &rules)
}

/// Sends a magic packet over UDP with this password, which can be one that no tool can send.
fn send_over_udp(scene: &Scene<'_>, domain: &str, password: &[u8], sender: u8) {
    let source = Ipv4Addr::new(192, 0, 2, sender);
    let packet = udp4(source, Ipv4Addr::BROADCAST, 9, &magic(scene.mac(domain), password));
    scene.lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, sender], 0x0800, &packet));
}

#[test]
fn denies_a_missing_or_wrong_password() {
    privileged!();
    let host = Host::new();
    let scene = with_passwords(&host);
    for (domain, _, correct) in PASSWORDS {
        let mac = scene.mac(domain);
        scene.lan.etherwake(mac, &["-b"]);
        let missing = scene.wait_for_outcome(domain, "bad-password", 1);
        assert!(
            missing.contains("the rule requires a SecureOn password, and the packet has none"),
            "{missing}"
        );
        // Passwords of four and six bytes, both wrong for both domains.
        for (nth, wrong) in ["192.168.1.3", "01:02:03:04:05:07"].into_iter().enumerate() {
            scene.lan.etherwake(mac, &["-b", "-p", wrong]);
            let wrong = scene.wait_for_outcome(domain, "bad-password", nth + 2);
            assert!(wrong.contains("its SecureOn password is wrong"), "{wrong}");
        }
        // A longer or shorter form of the correct password, and a password that consists of zeros.
        let other_length: &[u8] =
            if correct.len() == 4 { &[192, 168, 1, 2, 0, 0] } else { correct.get(..4).unwrap() };
        for (nth, wrong) in [other_length, &[0; 6]].into_iter().enumerate() {
            send_over_udp(&scene, domain, wrong, 1);
            let signal = scene.wait_for_outcome(domain, "bad-password", nth + 4);
            assert!(signal.contains("its SecureOn password is wrong"), "{wrong:?}: {signal}");
        }
        assert_never_started(&scene, domain);
    }
}

#[test]
fn the_correct_password_wakes_the_domain() {
    privileged!();
    let host = Host::new();
    let scene = with_passwords(&host);
    for (domain, text, correct) in PASSWORDS {
        // The copy from the bridge is denied because of its interface.
        scene.lan.etherwake(scene.mac(domain), &["-b", "-p", text]);
        let started = scene.wait_for_outcome(domain, "started", 1);
        assert!(started.contains(&format!("{domain}.secureon")), "{started}");
        assert_eq!(scene.state(domain), "running (booted)");
        scene.virsh(&["destroy", domain]);
        send_over_udp(&scene, domain, correct, 1);
        let _ = scene.wait_for_outcome(domain, "started", 2);
        assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), ("running (booted)", 2));
        assert_eq!(scene.outcomes(domain, "bad-password"), 0, "{domain}");
    }
}

/// Arguments of `virsh metadata` for the opt-in of a domain.
const METADATA: [&str; 3] = ["https://wakevirt.org/metadata/1.0", "--key", "wakevirt"];
const SET: [&str; 2] = ["--set", "<wake/>"];
const REMOVE: [&str; 1] = ["--remove"];

/// Changes the domain's metadata, and waits until the actor has read it, without a reload.
fn change_metadata(scene: &Scene<'_>, change: &[&str], scope: &[&str], allowed: bool) {
    scene.virsh(&[&["metadata", VM], METADATA.as_slice(), change, scope].concat());
    wait::until_true("the actor to read the change", || scene.explain(VM).contains("metadata") == allowed);
}

#[test]
fn follows_the_opt_in_of_a_domain() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &[Machine::new(VM)], "cool-down = \"0s\"\n");
    // Capture receives each packet twice, on the bridge and on its port.
    scene.packet(VM, 1);
    let _ = scene.wait_for_outcome(VM, "not-allowed", 2);
    assert_never_started(&scene, VM);

    change_metadata(&scene, &SET, &["--config"], true);
    scene.packet(VM, 2);
    let started = scene.wait_for_outcome(VM, "started", 1);
    assert!(started.contains("metadata"), "{started}");
    assert_eq!(scene.state(VM), "running (booted)");

    // While the domain is running, its persistent definition applies.
    change_metadata(&scene, &REMOVE, &["--config"], false);
    scene.virsh(&["destroy", VM]);
    scene.packet(VM, 3);
    let _ = scene.wait_for_outcome(VM, "not-allowed", 4);
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("shut off (destroyed)", 1));
    scene.virsh(&["start", VM]);
    change_metadata(&scene, &SET, &["--live", "--config"], true);
    scene.virsh(&["destroy", VM]);
    scene.packet(VM, 4);
    let _ = scene.wait_for_outcome(VM, "started", 2);
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (booted)", 3));
}

#[test]
fn follows_the_opt_in_of_a_transient_domain() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &[Machine::new(VM)], "cool-down = \"0s\"\n");
    let definition = scene.virsh(&["dumpxml", VM]);
    scene.virsh(&["undefine", VM]);
    host.write("/run/transient.xml", &definition);
    scene.virsh(&["create", "--paused", "/run/transient.xml"]);
    wait::until_true("the actor to read the change", || scene.explain(VM).contains(VM));
    assert!(scene.virsh(&["list", "--transient"]).contains(VM));

    scene.packet(VM, 1);
    let _ = scene.wait_for_outcome(VM, "not-allowed", 2);
    assert_eq!(scene.state(VM), "paused (user)");
    change_metadata(&scene, &SET, &["--live"], true);
    // A packet that the bridge does not receive. A copy of it could resume the domain again.
    scene.lan.etherwake(scene.mac(VM), &[]);
    let _ = scene.wait_for_outcome(VM, "resumed", 1);
    assert_eq!(scene.state(VM), "running (unpaused)");
    scene.virsh(&["suspend", VM]);
    change_metadata(&scene, &REMOVE, &["--live"], false);
    scene.packet(VM, 3);
    let _ = scene.wait_for_outcome(VM, "not-allowed", 4);
    assert_eq!(scene.state(VM), "paused (user)");
}
