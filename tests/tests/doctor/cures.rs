//! Faults that the printed command cures.

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{TEST, test_domain};
use wakevirt_tests::privileged;

use crate::patient::{ALLOWED, DOMAIN, HEALTHY, MAC, Patient, Setup};

/// A fault, and what doctor must say about it.
struct Fault {
    setup: Setup,
    /// The arguments of doctor.
    arguments: &'static [&'static str],
    /// The finding, which must be the first.
    check: &'static str,
    /// A part of its evidence.
    evidence: &'static str,
    /// Whether a packet without the option `-b` arrives and is denied before doctor runs.
    denied: bool,
}

/// Breaks a host, runs doctor, and executes exactly the command that it prints. Then a packet wakes the domain.
fn is_cured(fault: &Fault) {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, fault.setup);
    if fault.denied {
        patient.packet(MAC, &[]);
    }
    let diagnosis = patient.diagnose(fault.arguments);
    assert_eq!(diagnosis.first()["check"], fault.check, "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen(fault.check, fault.evidence), "{:#}", diagnosis.json);
    host.sh(diagnosis.cure(fault.check));
    patient.wakes(MAC, &[], &diagnosis);
    let after = patient.diagnose(fault.arguments);
    assert_eq!(after.json["healthy"], true, "{:#}", after.json);
}

const FAULT: Fault = Fault { setup: HEALTHY, arguments: &[], check: "", evidence: "", denied: false };

#[test]
fn nothing_allowed() {
    let setup = Setup { actor: "", ..HEALTHY };
    // The predefined domain of the test driver is first in the list.
    is_cured(&Fault { setup, arguments: &[DOMAIN], check: "not-allowed", evidence: "0 rules", ..FAULT });
}

#[test]
fn this_domain_not_allowed() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"test\"\n", ..HEALTHY };
    is_cured(&Fault { setup, arguments: &[DOMAIN], check: "not-allowed", evidence: "1 rules", ..FAULT });
}

#[test]
fn rule_for_no_domain() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"test\"\n[[allow]]\ndomain = \"wni11\"\n", ..HEALTHY };
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, setup);
    let diagnosis = patient.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "rule-names-no-domain", "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen("rule-names-no-domain", "\"win11\" is similar"), "{:#}", diagnosis.json);
    host.sh(diagnosis.cure("rule-names-no-domain"));
    patient.wakes(MAC, &[], &diagnosis);
}

#[test]
fn rule_for_no_interface() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\ninterfaces = [\"prot0\"]\n", ..HEALTHY };
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, setup);
    let diagnosis = patient.diagnose(&[DOMAIN]);
    let check = "rule-names-no-interface";
    assert_eq!(diagnosis.first()["check"], check, "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen(check, "port0"), "{:#}", diagnosis.json);
    host.sh(diagnosis.cure(check));
    patient.wakes(MAC, &[], &diagnosis);
}

#[test]
fn interfaces_that_do_not_exist() {
    let setup = Setup { capture: "interfaces = [\"prot0\"]\n", ..HEALTHY };
    let evidence = "\"prot0\" does not exist; \"port0\" is similar";
    is_cured(&Fault { setup, check: "interface-none", evidence, ..FAULT });
}

#[test]
fn an_alternative_name_that_differs() {
    let setup = Setup {
        capture: "interfaces = [\"enp9s0\"]\n",
        shell: "ip link property add dev port0 altname enp7s0",
        ..HEALTHY
    };
    let evidence = "\"enp7s0\" is similar, an alternative name of port0";
    is_cured(&Fault { setup, check: "interface-none", evidence, ..FAULT });
}

#[test]
fn no_interface_is_up() {
    let setup = Setup { shell: "ip link set port0 down && ip link set br0 down", ..HEALTHY };
    is_cured(&Fault { setup, check: "interface-down", evidence: "down: br0, port0", ..FAULT });
}

#[test]
fn denied_on_the_port_of_an_allowed_bridge() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\ninterfaces = [\"br0\"]\n", ..HEALTHY };
    is_cured(&Fault {
        setup,
        check: "denied-interface",
        evidence: "port0 is a port of br0",
        denied: true,
        ..FAULT
    });
}

#[test]
fn captured_on_the_bridge_and_not_on_its_port() {
    let setup = Setup { capture: "interfaces = [\"br0\"]\n", ..HEALTHY };
    is_cured(&Fault { setup, check: "bridge-port", evidence: "appears on the port only", ..FAULT });
}

#[test]
fn denied_source() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\nsources = [\"192.0.2.99\"]\n", ..HEALTHY };
    is_cured(&Fault { setup, check: "denied-source", evidence: "not-allowed", denied: true, ..FAULT });
}

#[test]
fn denied_vlan() {
    let setup = Setup { actor: "[[allow]]\ndomain = \"win11\"\nvlans = [10]\n", ..HEALTHY };
    is_cured(&Fault { setup, check: "denied-vlan", evidence: "not-allowed", denied: true, ..FAULT });
}

#[test]
fn denied_without_the_password() {
    let setup = Setup {
        actor: "[[allow]]\ndomain = \"win11\"\nsecure-on = \"/etc/wakevirt/win11.secureon\"\n",
        shell:
            "mkdir -p /etc/wakevirt && install -m 600 -o wakevirt-actor /dev/null /etc/wakevirt/win11.secureon
                echo 01:02:03:04:05:06 >/etc/wakevirt/win11.secureon",
        ..HEALTHY
    };
    is_cured(&Fault { setup, check: "denied-password", evidence: "bad-password", denied: true, ..FAULT });
}

#[test]
fn an_address_that_differs_in_one_digit() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, HEALTHY);
    let wrong = "52:54:00:12:34:57";
    patient.lan.etherwake(wrong, &[]);
    let _ = patient.actor.log().wait_for(&format!("packet for {wrong}"));
    let diagnosis = patient.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "unknown-address", "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen("unknown-address", &format!("{MAC} of \"win11\" is similar")));
    host.sh(diagnosis.cure("unknown-address"));
    patient.wakes(wrong, &[], &diagnosis);
    assert_eq!(patient.diagnose(&[DOMAIN]).json["healthy"], true);
}

#[test]
fn two_domains_with_one_address() {
    for (rules, selects) in [("", true), ("[[allow]]\ndomain = \"*\"\n", false)] {
        privileged!();
        let host = Host::new();
        let patient = Patient::new(&host, Setup { actor: rules, ..HEALTHY });
        patient.libvirtd.define(TEST, &test_domain("copy", MAC));
        wakevirt_tests::wait::until_true("the actor to know both", || {
            patient.host.counter("org.wakevirt.Actor1", "Domains") == 3
        });
        let diagnosis = patient.diagnose(&[DOMAIN]);
        let check = "ambiguous-address";
        assert_eq!(diagnosis.first()["check"], check, "{:#}", diagnosis.json);
        assert!(diagnosis.has_seen(check, "\"copy\" and \"win11\""), "{:#}", diagnosis.json);
        assert_eq!(diagnosis.cure(check).contains("[[allow]]"), selects, "{:#}", diagnosis.json);
        host.sh(diagnosis.cure(check));
        patient.wakes(MAC, &[], &diagnosis);
    }
}

#[test]
fn a_transient_domain() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, Setup { actor: "[[allow]]\ndomain = \"*\"\n", ..HEALTHY });
    patient.libvirtd.virsh(TEST, &["undefine", DOMAIN]);
    host.write("/run/transient.xml", &test_domain(DOMAIN, MAC));
    patient.libvirtd.virsh(TEST, &["create", "/run/transient.xml"]);
    let runs =
        || patient.host.call(wakevirt_tests::host::User::Root, "org.wakevirt.Actor1", "ListDomains", &[]);
    wakevirt_tests::wait::until_true("the actor to know it", || {
        runs().is_ok_and(|list| list.matches("'running'").count() == 2)
    });
    let diagnosis = patient.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "transient-domain", "{:#}", diagnosis.json);
    host.sh(diagnosis.cure("transient-domain"));
    patient.libvirtd.virsh(TEST, &["destroy", DOMAIN]);
    patient.wakes(MAC, &[], &diagnosis);
    assert_eq!(patient.diagnose(&[DOMAIN]).json["healthy"], true);
}

const WITHOUT_INTERFACE: &str =
    "<domain type='test'><name>win11</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os><devices/></domain>";

#[test]
fn macvtap_without_promiscuous_mode() {
    let domain = "<domain type='test'><name>win11</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices><interface type='direct'><mac address='52:54:00:12:34:56'/><source dev='lan1' mode='bridge'/></interface></devices></domain>";
    let shell = "ip link add lan1 type veth peer name lan2 && ip link set lan1 up";
    let setup = Setup { domain: Some(domain), shell, ..HEALTHY };
    is_cured(&Fault { setup, check: "macvtap", evidence: "promiscuity of lan1 is 0", ..FAULT });
}

#[test]
fn a_passed_through_card_without_alias() {
    privileged!();
    let host = Host::new();
    let domain = "<domain type='test'><name>win11</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices><hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/></source></hostdev></devices></domain>";
    let patient = Patient::new(&host, Setup { domain: Some(domain), actor: ALLOWED, ..HEALTHY });
    let card = "3c:fd:fe:01:02:03";
    let diagnosis = patient.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "passed-through-card", "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen("passed-through-card", "0000:06:12.5"), "{:#}", diagnosis.json);
    patient.lan.etherwake(card, &[]);
    let _ = patient.actor.log().wait_for(&format!("packet for {card}"));
    let diagnosis = patient.diagnose(&[DOMAIN]);
    host.sh(diagnosis.cure("passed-through-card"));
    patient.wakes(card, &[], &diagnosis);
}

#[test]
fn a_domain_without_an_address() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, Setup { domain: Some(WITHOUT_INTERFACE), ..HEALTHY });
    let diagnosis = patient.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "no-address", "{:#}", diagnosis.json);
    assert!(
        diagnosis.cure("no-address").contains("attach-interface win11 bridge br0"),
        "{:#}",
        diagnosis.json
    );
}
