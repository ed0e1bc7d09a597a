//! A healthy host, other faults, and reports.

use wakevirt_tests::daemon::StartedBy;
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::libvirt::second::{SECOND_URI, SecondLibvirtd};
use wakevirt_tests::libvirt::{QEMU, qemu_domain_with};
use wakevirt_tests::scene::{ALL_ALLOWED, Scene};

use crate::fixture::{DOMAIN, Fixture, HEALTHY, MAC, Setup, diagnose};

#[test]
fn a_healthy_host_passes_the_loopback_test() {
    privileged!();
    let host = Host::new();
    let shell = "sysctl --quiet --write net.ipv4.ip_unprivileged_port_start=9";
    let fixture = Fixture::new(&host, Setup { shell, ..HEALTHY });
    let works = |arguments: &[&str]| fixture.diagnose(arguments).json["works"].to_string();
    let text = works(&[]);
    assert!(text.contains("capture announced a packet for the unused address 02:57:4f:4c:"), "{text}");
    assert!(
        text.contains("a packet for 52:54:00:12:34:56 can wake \\\"win11\\\", which is shut off now"),
        "{text}"
    );
    assert!(!works(&["--no-test"]).contains("capture announced"));
    // doctor does not start the domain.
    assert_eq!(fixture.libvirtd.state(wakevirt_tests::libvirt::TEST, DOMAIN), "shut off");

    // If capture does not use lo, doctor sends a broadcast, which the kernel loops back.
    let port = Fixture::config(&fixture.capture);
    host.write(&port, "interfaces = [\"*\", \"!lo\"]\n");
    fixture.capture.signal(nix::sys::signal::Signal::SIGHUP);
    wait::until_true("capture to leave lo", || {
        host.property(User::Root, "org.wakevirt.Capture1", "Interfaces").is_ok_and(|it| !it.contains("'lo'"))
    });
    let text = works(&[]);
    assert!(text.contains("sent to 192.0.2.255, on br0"), "{text}");
}

#[test]
fn tells_an_ordinary_user_what_was_not_checked() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, HEALTHY);
    let program = "/run/copy/wakevirtctl";
    host.sh(&format!(
        "mkdir /run/copy && cp {PROGRAMS}/wakevirtctl {PROGRAMS}/wakevirt-actor {PROGRAMS}/wakevirt-capture /run/copy/"
    ));
    let run = |user| {
        let output = host.command_as(user, program).arg("doctor").output().expect("wakevirtctl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = run(User::Unprivileged);
    assert!(
        text.contains("not checked: the domains (user wakevirt-test-unprivileged is not allowed to call"),
        "{text}"
    );
    assert!(text.contains("); run sudo wakevirtctl list"), "{text}");
    let text = run(User::LibvirtMember);
    assert!(text.contains("can wake \"win11\""), "{text}");
    assert!(text.contains("next: doctor found no problem"), "{text}");
    drop(fixture);
}

#[test]
fn reports_a_stopped_actor() {
    privileged!();
    let host = Host::new();
    let mut fixture = Fixture::new(&host, HEALTHY);
    fixture.actor.stop();
    let diagnosis = fixture.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "service-absent", "{:#}", diagnosis.json);
    assert!(
        diagnosis.has_evidence("service-absent", "org.wakevirt.Actor1 has no owner"),
        "{:#}",
        diagnosis.json
    );
    assert!(diagnosis.json["not-checked"].to_string().contains("the units"), "{:#}", diagnosis.json);
}

#[test]
fn reports_an_unreachable_bus() {
    privileged!();
    let host = Host::new();
    let json = diagnose(&host, &[]);
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1), "{json:#}");
    assert_eq!(json["findings"][0]["check"], "bus-unreachable", "{json:#}");
}

#[test]
fn reports_udp_mode() {
    privileged!();
    let host = Host::new();
    let setup = Setup {
        shell: "sysctl --quiet --write net.ipv4.ip_unprivileged_port_start=9",
        started_by: StartedBy::Unprivileged,
        ..HEALTHY
    };
    let fixture = Fixture::new(&host, setup);
    let diagnosis = fixture.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "udp-mode", "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence("udp-mode", "CAP_NET_RAW"), "{:#}", diagnosis.json);
}

#[test]
fn fixes_a_port_that_another_program_uses() {
    privileged!();
    let host = Host::new();
    let script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind((\"0.0.0.0\", 9))\n\
                  print(\"bound\", flush=True)\ntime.sleep(1000)";
    let mut python = host.command("python3");
    let mut python = Process::start("python3", python.args(["-c", script]));
    let _ = python.log().wait_for("bound");
    let fixture = Fixture::new(&host, Setup { capture: "listen = [\"[::1]:4009\"]\n", ..HEALTHY });
    let diagnosis = fixture.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "port-taken", "{:#}", diagnosis.json);
    assert!(diagnosis.first()["problem"].as_str().is_some_and(|it| it.contains("python3, process")));
    host.sh(diagnosis.command_for("port-taken"));
    let _ = python.wait_for_exit();
    assert_eq!(fixture.diagnose(&[]).json["healthy"], true);
}

#[test]
fn reports_an_unreachable_libvirt() {
    privileged!();
    let host = Host::new();
    let mut fixture = Fixture::new(&host, HEALTHY);
    fixture.libvirtd.kill();
    wait::until_true("the actor to notice the lost connection", || {
        host.property(User::Root, "org.wakevirt.Actor1", "Connections").is_ok_and(|it| it.contains("false"))
    });
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "libvirt-unreachable", "{:#}", diagnosis.json);
    assert!(
        diagnosis.has_evidence("libvirt-unreachable", "Failed to connect socket"),
        "{:#}",
        diagnosis.json
    );
}

#[test]
fn explains_counters_and_the_cool_down() {
    privileged!();
    let host = Host::new();
    // The last packet must arrive during the cool-down.
    let actor = "cool-down = \"1h\"\n[[allow]]\ndomain = \"win11\"\n";
    let fixture =
        Fixture::new(&host, Setup { capture: "limit = 1\ndeduplicate = \"0s\"\n", actor, ..HEALTHY });
    // The last copy of the address differs. The port and the bridge receive both frames.
    let mut almost = magic(MAC, &[]);
    almost[101] ^= 1;
    fixture.lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &almost));
    fixture.lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &magic("01:00:5e:00:00:01", &[])));
    wait::until_true("both frames to be counted", || host.counter("org.wakevirt.Capture1", "Malformed") == 4);
    for number in 0..8 {
        fixture.lan.etherwake(&format!("52:54:00:00:00:0{number}"), &[]);
    }
    fixture.assert_wakes(MAC, &[], &fixture.diagnose(&[]));
    fixture.libvirtd.virsh(wakevirt_tests::libvirt::TEST, &["destroy", DOMAIN]);
    fixture.packet(MAC, &[]);
    let _ = fixture.decisions.log().wait_for("cooling-down");
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    for check in ["malformed", "limited", "cool-down"] {
        assert_eq!(diagnosis.finding(check)["severity"], "note", "{:#}", diagnosis.json);
    }
    assert!(
        diagnosis.finding("malformed")["problem"]
            .to_string()
            .contains("an address that no network card can have")
    );
    assert_eq!(diagnosis.json["healthy"], true, "{:#}", diagnosis.json);
}

#[test]
fn names_the_condition_of_each_rule_that_denied_a_packet() {
    privileged!();
    let host = Host::new();
    let rules = "[[allow]]\ndomain = \"win11\"\nvlans = [10]\n[[allow]]\ndomain = \"test\"\n\
                 [[allow]]\nmac = \"52:54:00:*\"\ninterfaces = [\"br0\"]\n";
    let fixture = Fixture::new(&host, Setup { actor: rules, ..HEALTHY });
    fixture.packet(MAC, &[]);
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "denied-vlan", "{:#}", diagnosis.json);
    let file = Fixture::config(&fixture.actor);
    for (rule, line, condition) in [(1, 2, "in this VLAN (0)"), (3, 7, "from this interface (\"port0\")")] {
        let location = format!("rule {rule} ({file}:{line}): it does not match packets {condition}");
        let evidence = diagnosis.evidence("denied-vlan");
        assert!(evidence.contains(&location.as_str()), "{location}: {evidence:#?}");
    }
    // The rule for the other domain does not matter.
    assert!(!diagnosis.has_evidence("denied-vlan", "rule 2"), "{:#}", diagnosis.json);
}

/// A rule for a MAC address does not name the domain.
#[test]
fn fixes_a_denying_rule_for_a_mac_address() {
    privileged!();
    let host = Host::new();
    let rules = "[[allow]]\nmac = \"52:54:00:*\"\ninterfaces = [\"br0\"]\n";
    let fixture = Fixture::new(&host, Setup { actor: rules, ..HEALTHY });
    fixture.packet(MAC, &[]);
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "denied-interface", "{:#}", diagnosis.json);
    host.sh(diagnosis.command_for("denied-interface"));
    fixture.assert_wakes(MAC, &[], &diagnosis);
    assert_eq!(fixture.diagnose(&[DOMAIN]).json["healthy"], true);
}

#[test]
fn lists_received_addresses_that_no_domain_has() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, Setup { capture: "deduplicate = \"0s\"\nremember = 1\n", ..HEALTHY });
    let addresses = ["3c:54:00:12:aa:bb", "52:54:00:aa:bb:cc"];
    for address in addresses {
        fixture.lan.etherwake(address, &["-b"]);
        let _ = fixture.actor.log().wait_for(&format!("packet for {address}"));
    }
    // The port and the bridge receive each frame.
    wait::until_true("both copies", || host.counter("org.wakevirt.Actor1", "UnknownPackets") == 4);
    let diagnosis = fixture.diagnose(&["--no-test"]);
    let finding = diagnosis.finding("unknown-address");
    assert_eq!(finding["severity"], "note", "{:#}", diagnosis.json);
    assert_eq!(finding["problem"], "packets arrived for 2 addresses that no domain has");
    // Capture remembers only one packet, but the actor stores all addresses.
    for address in addresses {
        let evidence = diagnosis.evidence("unknown-address");
        let is_listed = |text: &&str| {
            text.starts_with(&format!("packet for {address}"))
                && text
                    .ends_with("the latest of 2; the most similar address is 52:54:00:12:34:56 of \"win11\"")
        };
        assert!(evidence.iter().any(is_listed), "{evidence:#?}");
    }
    assert_eq!(diagnosis.json["healthy"], true, "{:#}", diagnosis.json);
}

#[test]
fn reports_a_migrated_domain() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &[Machine::new(DOMAIN)], ALL_ALLOWED);
    let _destination = SecondLibvirtd::start(&host);
    scene.virsh(&["start", DOMAIN]);
    scene.virsh(&["migrate", "--live", DOMAIN, SECOND_URI, "--migrateuri", "unix:///run/migration"]);
    let json = diagnose(&host, &[DOMAIN]);
    let first = &json["findings"][0];
    assert_eq!(first["check"], "migrated-away", "{json:#}");
    assert!(first["evidence"].to_string().contains("shut off (migrated)"), "{json:#}");
    // The advice says to shut it down on the other host first.
    host.sh(&format!("virsh --quiet --connect '{SECOND_URI}' destroy {DOMAIN}"));
    host.sh(first["cure"].as_str().expect("a command"));
    assert_eq!(scene.libvirtd.state(QEMU, DOMAIN), "running");
    scene.virsh(&["destroy", DOMAIN]);
    scene.packet(DOMAIN, 1);
    scene.wait_for_state(DOMAIN, "running");
}

#[test]
fn adds_an_interface_to_a_domain_without_one() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &[], ALL_ALLOWED);
    scene.libvirtd.define(QEMU, &qemu_domain_with(DOMAIN, ""));
    let first = || diagnose(&host, &[DOMAIN])["findings"][0].clone();
    let no_address = || Some(first()).filter(|finding| finding["check"] == "no-address");
    let finding = wait::until("doctor to find the domain", no_address);
    host.sh(finding["cure"].as_str().expect("a command"));
    let mac = scene.libvirtd.mac(DOMAIN);
    // The actor reads the new address when libvirt reports the change.
    wait::until_true("a packet to wake the domain", || {
        scene.lan.etherwake(&mac, &["-b"]);
        scene.libvirtd.state(QEMU, DOMAIN) == "running"
    });
}

#[test]
fn masks_a_report_on_request() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, HEALTHY);
    fixture.packet(MAC, &[]);
    let report = |options: &[&str]| {
        let output = fixture.doctor(&[&["--report"], options].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (plain, masked) = (report(&[]), report(&["--mask"]));
    for text in ["win11", MAC, "## Findings", "## Latest decisions", "started"] {
        assert!(plain.contains(text), "{text} is not in\n{plain}");
    }
    assert!(masked.contains("domain-1") && masked.contains("mac-1"), "{masked}");
    for secret in ["win11", MAC, "192.0.2.1"] {
        assert!(!masked.contains(secret), "{secret} is in\n{masked}");
    }
}
