//! The actor's D-Bus methods, and its status.

use wakevirt_protocol::bus::ACTOR_INTERFACE;
use wakevirt_tests::bus::{Bus, CallError, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, TEST, define_all, test_domain};
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";
const OTHER_MAC: &str = "52:54:00:01:02:04";
const UNKNOWN_MAC: &str = "52:54:00:01:02:05";

/// Starts the actor with libvirt's test driver, and waits until it is connected.
fn actor(host: &Host, rules: &str) -> Daemon {
    Daemon::actor(host).config(&config(rules)).start_connected()
}

fn config(rules: &str) -> String {
    format!("connections = [\"{TEST}\"]\n{rules}")
}

fn call(host: &Host, method: &str, arguments: &[&str]) -> Result<String, CallError> {
    host.call(User::Root, ACTOR_INTERFACE, method, arguments)
}

/// Whether a packet would wake a domain, and the whole reply, which gives the reason.
fn explain(host: &Host, mac: &str, details: &str) -> (bool, String) {
    let reply = call(host, "Explain", &[&format!("'{mac}'"), details]);
    let reply = reply.unwrap_or_else(|error| format!("{error:?}"));
    (reply.starts_with("(true, "), reply)
}

#[test]
fn wakes_a_domain_by_name_or_uuid() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    libvirtd.define(TEST, &test_domain("vm2", OTHER_MAC));
    let _actor = actor(&host, "");
    assert_eq!(call(&host, "WakeDomain", &["'vm1'"]).unwrap(), "('started',)");
    assert_eq!(libvirtd.state(TEST, "vm1"), "running");
    assert_eq!(libvirtd.state(TEST, "vm2"), "shut off");
    let uuid = libvirtd.virsh(TEST, &["domuuid", "vm2"]);
    assert_eq!(call(&host, "WakeDomain", &[&format!("'{uuid}'")]).unwrap(), "('started',)");
    assert_eq!(libvirtd.state(TEST, "vm2"), "running");
    assert_eq!(call(&host, "WakeDomain", &["'vm1'"]).unwrap(), "('already-running',)");

    let history = call(&host, "History", &["uint32 2"]).unwrap();
    assert_eq!(history.matches("'outcome'").count(), 2, "{history}");
    assert!(history.contains("'already-running'") && history.contains("'vm2'"), "{history}");
    assert!(
        history.contains("'caller': <uint32 0>, ") || history.contains("'caller': <uint32 0>}"),
        "{history}"
    );
    assert!(history.contains("'authority': <'user'>"), "{history}");

    for (method, argument, error, part) in [
        ("WakeDomain", "'vm3'", "NoSuchDomain", "vm3"),
        ("WakeDomain", "'*'", "NoSuchDomain", "*"),
        ("WakeDomain", "''", "NoSuchDomain", ""),
        ("Wake", "'52:54:00:01:02:05'", "NoSuchDomain", UNKNOWN_MAC),
        ("Wake", "'vm1'", "InvalidArgument", "MAC"),
    ] {
        let rejected = call(&host, method, &[argument]).unwrap_err();
        assert_eq!(rejected.name, format!("org.wakevirt.Error.{error}"), "{method} {argument}: {rejected:?}");
        assert!(rejected.message.contains(part), "{rejected:?}");
    }
}

#[test]
fn explains_a_decision_without_acting() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusBroker);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    libvirtd.define(TEST, &test_domain("vm2", OTHER_MAC));
    let rules = "[[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br0\"]\nvlans = [0, 10]\nsources = [\"192.0.2.0/24\"]\n";
    let _actor = actor(&host, rules);
    for (mac, details, would_wake, part) in [
        (MAC, "{'interface': <'br0'>, 'vlan': <uint16 10>, 'source': <'192.0.2.7'>}", true, "vm1"),
        (MAC, "{'interface': <'br0'>, 'vlan': <uint16 0>, 'source': <'192.0.2.7'>}", true, "vm1"),
        (
            MAC,
            "{'interface': <'br0'>, 'vlan': <uint16 20>, 'source': <'192.0.2.7'>}",
            false,
            "packets in this VLAN",
        ),
        (MAC, "{'interface': <'br0'>, 'source': <'192.0.2.7'>}", false, "with an unknown VLAN"),
        (MAC, "{'interface': <'br1'>, 'vlan': <uint16 0>, 'source': <'192.0.2.7'>}", false, "192.0.2.0/24"),
        (
            MAC,
            "{'interface': <'br0'>, 'vlan': <uint16 0>, 'source': <'198.51.100.7'>}",
            false,
            "192.0.2.0/24",
        ),
        (OTHER_MAC, "{'interface': <'br0'>, 'source': <'192.0.2.7'>}", false, "vm2"),
        (UNKNOWN_MAC, "@a{sv} {}", false, UNKNOWN_MAC),
    ] {
        let (would, reason) = explain(&host, mac, details);
        assert_eq!(would, would_wake, "{mac} {details}: {reason}");
        assert!(reason.contains(part), "{mac} {details}: {reason}");
    }
    for domain in ["vm1", "vm2"] {
        assert_eq!(libvirtd.state(TEST, domain), "shut off");
    }
    // An explanation is not added to the history.
    assert_eq!(call(&host, "History", &["uint32 10"]).unwrap(), "(@aa{sv} [],)");
}

/// The values of a key in all entries of a reply.
fn values(reply: &str, key: &str) -> Vec<String> {
    let before = format!("'{key}': <'");
    let parts = reply.split(&before).skip(1);
    parts.map(|part| part.split('\'').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn pages_long_domain_lists_and_truncates_long_errors() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let _libvirtd = Libvirtd::start(&host);
    define_all(&host, TEST, (0..2000).map(|number| test_domain(&format!("vm{number}"), MAC)));
    let _actor = actor(&host, "[[allow]]\ndomain = \"*\"\n");

    let error = call(&host, "ListDomains", &[]).unwrap_err();
    assert_eq!(error.name, "org.wakevirt.Error.LimitExceeded", "{error:?}");
    assert!(error.message.contains("ListDomainsAfter"), "{error:?}");
    let (mut uuids, mut last) = (Vec::new(), [String::new(), String::new()]);
    loop {
        let after = last.each_ref().map(|text| format!("'{text}'"));
        let page = call(&host, "ListDomainsAfter", &after.each_ref().map(String::as_str)).unwrap();
        let (connections, found) = (values(&page, "connection"), values(&page, "uuid"));
        let (Some(connection), Some(uuid)) = (connections.last(), found.last()) else { break };
        last = [connection.clone(), uuid.clone()];
        uuids.extend(found);
    }
    let distinct: std::collections::BTreeSet<&String> = uuids.iter().collect();
    // The test driver has one domain by default.
    assert_eq!((uuids.len(), distinct.len()), (2001, 2001));
    let error = call(&host, "ListDomainsAfter", &["'a'", "'b'"]).unwrap_err();
    assert_eq!(error.name, "org.wakevirt.Error.InvalidArgument");

    let error = call(&host, "Wake", &[&format!("'{MAC}'")]).unwrap_err();
    assert_eq!(error.name, "org.wakevirt.Error.Ambiguous");
    assert!(error.message.contains(" and 1997 more match") && error.message.len() < 1000, "{error:?}");
    let (_, reason) = explain(&host, MAC, "@a{sv} {}");
    assert!(reason.contains(" and 1997 more match") && reason.len() < 1000, "{reason}");
    let history = call(&host, "History", &["uint32 4294967295"]).unwrap();
    assert!(history.contains("'number': <uint64 1>") && history.len() < 2000, "{history}");
    assert_eq!(call(&host, "HistoryBefore", &["uint64 1", "uint32 10"]).unwrap(), "(@aa{sv} [],)");
}

#[test]
fn reloads_the_configuration() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    let actor = actor(&host, "");
    assert!(!explain(&host, MAC, "@a{sv} {}").0);
    host.write(actor.config_file(), &config("[[allow]]\ndomain = \"vm1\"\n"));
    assert_eq!(call(&host, "Reload", &[]).unwrap(), "()");
    assert!(explain(&host, MAC, "@a{sv} {}").0);

    // A reload that fails changes nothing.
    let braces = format!("[[allow]]\ndomain = \"{}x{}\"\n", "{".repeat(200), "}".repeat(200));
    for (bad, reason) in [
        ("[[alow]]\ndomain = \"vm1\"\n", "alow"),
        (&braces, "200 groups in braces; the maximum is 16"),
        ("hold = \"300000000000years\"\n", "at most \"7days\""),
    ] {
        host.write(actor.config_file(), &config(bad));
        let error = call(&host, "Reload", &[]).unwrap_err();
        assert!(error.name.starts_with("org.wakevirt.Error."), "{error:?}");
        assert!(error.message.contains(reason), "{error:?}");
        assert!(explain(&host, MAC, "@a{sv} {}").0, "{bad}");
    }
    // The status shows the failure until a reload succeeds, even when it is updated because a domain is added.
    let failure = "the last reload failed: ";
    let status = || actor.notifications().all().pop().unwrap_or_default();
    assert!(status().contains(failure), "{}", status());
    libvirtd.define(TEST, &test_domain("vm2", OTHER_MAC));
    let line = actor.notifications().wait_for("3 domains");
    assert!(line.contains(failure) && line.contains("at most \"7days\""), "{line}");
    host.write(actor.config_file(), &config(""));
    assert_eq!(call(&host, "Reload", &[]).unwrap(), "()");
    wait::until_true("the status without the failure", || !status().contains(failure));
}

#[test]
fn status_reports_that_capture_is_not_running() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let _libvirtd = Libvirtd::start(&host);
    let actor = actor(&host, "");
    let text = "wakevirt-capture.service is not running";
    let _ = actor.notifications().wait_for(text);
    let _capture = Daemon::capture(&host).start();
    wait::until_true("the status without the text", || {
        actor.notifications().all().last().is_some_and(|status| !status.contains(text))
    });
}

#[test]
fn an_exact_domain_name_is_not_a_glob() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    libvirtd.define(TEST, &test_domain("vm[1]", OTHER_MAC));
    let actor = actor(&host, "[[allow]]\ndomain = \"vm[1]\"\n");
    let _ = actor.log().wait_for("rule domain = \"vm[1]\" matches only the domain \"vm[1]\"");
    assert!(explain(&host, OTHER_MAC, "@a{sv} {}").0);
    assert!(!explain(&host, MAC, "@a{sv} {}").0);
    // The name is not a glob even after the domain is removed.
    libvirtd.virsh(TEST, &["undefine", "vm[1]"]);
    wait::until_true("the actor to remove the domain", || !explain(&host, OTHER_MAC, "@a{sv} {}").0);
    assert!(!explain(&host, MAC, "@a{sv} {}").0);
    host.write(actor.config_file(), &config("[[allow]]\ndomain = 'vm\\[1\\]'\n"));
    assert_eq!(call(&host, "Reload", &[]).unwrap(), "()");
    assert!(!explain(&host, MAC, "@a{sv} {}").0);
    libvirtd.define(TEST, &test_domain("vm[1]", OTHER_MAC));
    wait::until_true("the actor to add the domain", || explain(&host, OTHER_MAC, "@a{sv} {}").0);
    assert!(!explain(&host, MAC, "@a{sv} {}").0);
}

#[test]
fn warns_about_rules_that_match_no_domain_or_interface() {
    privileged!();
    let host = Host::new();
    host.bridge("br0");
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    host.sh("ip link property add dev br0 altname uplink");
    let rules = |interfaces: &str| {
        format!("[[allow]]\ndomain = \"vm1\"\ninterfaces = {interfaces}\n[[allow]]\ndomain = \"vm2\"\n")
    };
    let actor = actor(&host, &rules("[\"br0\", \"gone0\", \"en*\", \"uplink\", \"lo\"]"));
    let _ = actor.log().wait_for("rule domain = \"vm2\" does not match any domain");
    assert_eq!(actor.log().count("does not match any domain"), 1);
    // The actor gets the interfaces from the announcer.
    let _capture = Daemon::capture(&host).config("interfaces = [\"br0\"]").start_ready();
    for name in ["gone0", "lo"] {
        let line = actor
            .log()
            .wait_for(&format!("names the interface \"{name}\", on which wakevirt does not capture packets"));
        assert!(line.contains("WARN") && line.contains("vm1"), "{line}");
    }
    assert_eq!(actor.log().count("on which wakevirt does not capture packets"), 2);
    host.write(actor.config_file(), &config(&rules("[\"gone1\"]")));
    assert_eq!(call(&host, "Reload", &[]).unwrap(), "()");
    let _ = actor.log().wait_for("names the interface \"gone1\"");
    assert_eq!(actor.log().count("on which wakevirt does not capture packets"), 3);
}
