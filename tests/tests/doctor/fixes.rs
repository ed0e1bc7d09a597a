//! Faults that the printed command fixes.

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{TEST, test_domain};
use wakevirt_tests::privileged;

use crate::fixture::{ALLOWED, DOMAIN, Fixture, HEALTHY, MAC, Setup};

/// A fault, and what doctor must say about it.
struct Fault {
    setup: Setup,
    /// doctor's arguments.
    arguments: &'static [&'static str],
    /// The check whose finding must be the first.
    check: &'static str,
    /// Part of its evidence.
    evidence: &'static str,
    /// Whether a unicast packet arrives and is denied before doctor runs.
    denied: bool,
}

/// Sets up a host with the fault, runs doctor, and executes exactly the command that it prints. Afterwards, a packet
/// must wake the domain, and doctor must find nothing.
fn assert_fixed(fault: &Fault) {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, fault.setup);
    if fault.denied {
        fixture.packet(MAC, &[]);
    }
    let diagnosis = fixture.diagnose(fault.arguments);
    assert_eq!(diagnosis.first()["check"], fault.check, "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence(fault.check, fault.evidence), "{:#}", diagnosis.json);
    host.sh(diagnosis.command_for(fault.check));
    fixture.assert_wakes(MAC, &[], &diagnosis);
    let after = fixture.diagnose(fault.arguments);
    assert_eq!(after.json["healthy"], true, "{:#}", after.json);
}

const FAULT: Fault = Fault { setup: HEALTHY, arguments: &[], check: "", evidence: "", denied: false };

#[test]
fn fixes_a_configuration_that_allows_nothing() {
    let setup = Setup { actor: "", ..HEALTHY };
    // The test driver's predefined domain is first in the list.
    assert_fixed(&Fault {
        setup,
        arguments: &[DOMAIN],
        check: "not-allowed",
        evidence: "rules in the configuration: 0",
        ..FAULT
    });
}

#[test]
fn fixes_a_host_on_which_no_domain_is_allowed() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, Setup { actor: "", ..HEALTHY });
    let diagnosis = fixture.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "nothing-allowed", "{:#}", diagnosis.json);
    // The advice is to replace the name, here of the test driver's predefined domain.
    let advice = diagnosis.first()["advice"].as_str().unwrap_or_default();
    assert!(advice.starts_with("Replace the name"), "{:#}", diagnosis.json);
    host.sh(&diagnosis.command_for("nothing-allowed").replace("\"test\"", "\"win11\""));
    fixture.assert_wakes(MAC, &[], &diagnosis);
}

#[test]
fn finds_the_domain_for_a_misspelt_argument() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, HEALTHY);
    let diagnosis = fixture.diagnose(&["wni11"]);
    assert_eq!(diagnosis.first()["check"], "no-such-domain", "{:#}", diagnosis.json);
    assert_eq!(diagnosis.command_for("no-such-domain"), "wakevirtctl doctor win11");
}

#[test]
fn shows_where_an_alias_for_a_multicast_address_is() {
    let actor = "[[allow]]\ndomain = \"win11\"\n[[alias]]\nmac = \"01:00:5e:00:00:01\"\ndomain = \"win11\"\n";
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, Setup { actor, ..HEALTHY });
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "multicast-address", "{:#}", diagnosis.json);
    let shown = host.sh(diagnosis.command_for("multicast-address"));
    assert!(shown.contains("mac = \"01:00:5e:00:00:01\""), "{shown}");
}

#[test]
fn fixes_rules_that_do_not_allow_the_domain() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"test\"\n", ..HEALTHY };
    assert_fixed(&Fault {
        setup,
        arguments: &[DOMAIN],
        check: "not-allowed",
        evidence: "rules in the configuration: 1",
        ..FAULT
    });
}

#[test]
fn fixes_a_rule_for_a_misspelt_domain() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"test\"\n[[allow]]\ndomain = \"wni11\"\n", ..HEALTHY };
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, setup);
    let diagnosis = fixture.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "rule-names-no-domain", "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence("rule-names-no-domain", "\"win11\" is similar"), "{:#}", diagnosis.json);
    host.sh(diagnosis.command_for("rule-names-no-domain"));
    fixture.assert_wakes(MAC, &[], &diagnosis);
}

#[test]
fn shows_where_a_rule_for_an_unknown_domain_is() {
    let actor =
        "[[allow]]\ndomain = \"win11\"\nsources = [\"192.0.2.0/24\"]\n[[allow]]\ndomain = \"backup\"\n";
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, Setup { actor, ..HEALTHY });
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    let shown = host.sh(diagnosis.command_for("rule-names-no-domain"));
    assert!(shown.contains("domain = \"backup\"") && shown.contains(".toml:"), "{shown}");
    // The rule of the other domain has conditions.
    let works = diagnosis.json["works"].to_string();
    assert!(works.contains("if the packet meets the conditions of the rule"), "{works}");
}

#[test]
fn fixes_a_rule_for_a_misspelt_interface() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\ninterfaces = [\"prot0\"]\n", ..HEALTHY };
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, setup);
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    let check = "rule-names-no-interface";
    assert_eq!(diagnosis.first()["check"], check, "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence(check, "port0"), "{:#}", diagnosis.json);
    host.sh(diagnosis.command_for(check));
    fixture.assert_wakes(MAC, &[], &diagnosis);
    assert_eq!(fixture.diagnose(&[DOMAIN]).json["healthy"], true);
}

#[test]
fn fixes_a_misspelt_interface_of_capture() {
    let setup = Setup { capture: "interfaces = [\"prot0\"]\n", ..HEALTHY };
    let evidence = "\"prot0\" does not exist; \"port0\" is similar";
    assert_fixed(&Fault { setup, check: "interface-none", evidence, ..FAULT });
}

#[test]
fn fixes_a_wrong_alternative_name() {
    let setup = Setup {
        capture: "interfaces = [\"enp9s0\"]\n",
        shell: "ip link property add dev port0 altname enp7s0",
        ..HEALTHY
    };
    let evidence = "\"enp7s0\", an alternative name of port0, is similar";
    assert_fixed(&Fault { setup, check: "interface-none", evidence, ..FAULT });
}

#[test]
fn fixes_interfaces_that_are_down() {
    let setup = Setup { shell: "ip link set port0 down && ip link set br0 down", ..HEALTHY };
    assert_fixed(&Fault { setup, check: "interface-down", evidence: "down: br0, port0", ..FAULT });
}

#[test]
fn fixes_a_rule_that_allows_the_bridge_but_not_its_port() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\ninterfaces = [\"br0\"]\n", ..HEALTHY };
    assert_fixed(&Fault {
        setup,
        check: "denied-interface",
        evidence: "port0 is a port of br0",
        denied: true,
        ..FAULT
    });
}

#[test]
fn fixes_capture_on_the_bridge_but_not_on_its_port() {
    let setup = Setup { capture: "interfaces = [\"br0\"]\n", ..HEALTHY };
    assert_fixed(&Fault { setup, check: "bridge-port", evidence: "appears only on the port", ..FAULT });
}

#[test]
fn fixes_a_denied_source() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\nsources = [\"192.0.2.99\"]\n", ..HEALTHY };
    assert_fixed(&Fault { setup, check: "denied-source", evidence: "not-allowed", denied: true, ..FAULT });
}

#[test]
fn fixes_a_denied_vlan() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\nvlans = [10]\n", ..HEALTHY };
    assert_fixed(&Fault { setup, check: "denied-vlan", evidence: "not-allowed", denied: true, ..FAULT });
}

#[test]
fn fixes_a_denied_packet_without_the_password() {
    let setup = Setup {
        actor: "[[allow]]\ndomain = \"win11\"\nsecure-on = \"/etc/wakevirt/win11.secureon\"\n",
        shell:
            "mkdir -p /etc/wakevirt && install -m 600 -o wakevirt-actor /dev/null /etc/wakevirt/win11.secureon
                echo 01:02:03:04:05:06 >/etc/wakevirt/win11.secureon",
        ..HEALTHY
    };
    assert_fixed(&Fault { setup, check: "denied-password", evidence: "bad-password", denied: true, ..FAULT });
}

#[test]
fn fixes_an_address_that_differs_in_one_digit() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, HEALTHY);
    let wrong = "52:54:00:12:34:57";
    fixture.lan.etherwake(wrong, &[]);
    let _ = fixture.actor.log().wait_for(&format!("packet for {wrong}"));
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "unknown-address", "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence("unknown-address", &format!("{MAC} of \"win11\" is similar")));
    host.sh(diagnosis.command_for("unknown-address"));
    fixture.assert_wakes(wrong, &[], &diagnosis);
    assert_eq!(fixture.diagnose(&[DOMAIN]).json["healthy"], true);
}

#[test]
fn fixes_two_domains_with_one_address() {
    for (rules, selects) in [("", true), ("[[allow]]\ndomain = \"*\"\n", false)] {
        privileged!();
        let host = Host::new();
        let fixture = Fixture::new(&host, Setup { actor: rules, ..HEALTHY });
        fixture.libvirtd.define(TEST, &test_domain("copy", MAC));
        wakevirt_tests::wait::until_true("the actor to list both domains", || {
            fixture.host.counter("org.wakevirt.Actor1", "Domains") == 3
        });
        let diagnosis = fixture.diagnose(&[DOMAIN]);
        let check = "ambiguous-address";
        assert_eq!(diagnosis.first()["check"], check, "{:#}", diagnosis.json);
        assert!(diagnosis.has_evidence(check, "\"copy\" and \"win11\""), "{:#}", diagnosis.json);
        assert_eq!(diagnosis.command_for(check).contains("[[allow]]"), selects, "{:#}", diagnosis.json);
        host.sh(diagnosis.command_for(check));
        fixture.assert_wakes(MAC, &[], &diagnosis);
    }
}

#[test]
fn fixes_a_transient_domain() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host, Setup { actor: "[[allow]]\ndomain = \"*\"\n", ..HEALTHY });
    fixture.libvirtd.virsh(TEST, &["undefine", DOMAIN]);
    host.write("/run/transient.xml", &test_domain(DOMAIN, MAC));
    fixture.libvirtd.virsh(TEST, &["create", "/run/transient.xml"]);
    let runs =
        || fixture.host.call(wakevirt_tests::host::User::Root, "org.wakevirt.Actor1", "ListDomains", &[]);
    wakevirt_tests::wait::until_true("the actor to list the domain", || {
        runs().is_ok_and(|list| list.matches("'running'").count() == 2)
    });
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "transient-domain", "{:#}", diagnosis.json);
    host.sh(diagnosis.command_for("transient-domain"));
    fixture.libvirtd.virsh(TEST, &["destroy", DOMAIN]);
    fixture.assert_wakes(MAC, &[], &diagnosis);
    assert_eq!(fixture.diagnose(&[DOMAIN]).json["healthy"], true);
}

#[test]
fn fixes_macvtap_without_promiscuous_mode() {
    let domain = "<domain type='test'><name>win11</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices><interface type='direct'><mac address='52:54:00:12:34:56'/><source dev='lan1' mode='bridge'/></interface></devices></domain>";
    let shell = "ip link add lan1 type veth peer name lan2 && ip link set lan1 up";
    let setup = Setup { domain: Some(domain), shell, ..HEALTHY };
    assert_fixed(&Fault { setup, check: "macvtap", evidence: "promiscuity of lan1 is 0", ..FAULT });
}

#[test]
fn fixes_a_passed_through_card_without_an_alias() {
    privileged!();
    let host = Host::new();
    let domain = "<domain type='test'><name>win11</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices><hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/></source></hostdev></devices></domain>";
    let fixture = Fixture::new(&host, Setup { domain: Some(domain), actor: ALLOWED, ..HEALTHY });
    let card = "3c:fd:fe:01:02:03";
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "passed-through-card", "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence("passed-through-card", "0000:06:12.5"), "{:#}", diagnosis.json);
    fixture.lan.etherwake(card, &[]);
    let _ = fixture.actor.log().wait_for(&format!("packet for {card}"));
    let diagnosis = fixture.diagnose(&[DOMAIN]);
    host.sh(diagnosis.command_for("passed-through-card"));
    fixture.assert_wakes(card, &[], &diagnosis);
}
