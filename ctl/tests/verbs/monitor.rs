//! `wakevirtctl monitor`.

use nix::sys::signal::Signal;
use serde_json::Value;
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::privileged;
use wakevirt_tests::process::Process;
use wakevirt_tests::project::json::{assert_documented, documented};

use crate::site::{ALLOWED_MAC, OTHER_MAC, Site};

/// Starts the verb, and wakes a domain until the verb prints that: then it has subscribed.
fn start(host: &Host, options: &[&str]) -> Process {
    let mut command = host.command_as(User::Unprivileged, &format!("{PROGRAMS}/wakevirtctl"));
    let monitor = Process::start("wakevirtctl", command.arg("monitor").args(options));
    wakevirt_tests::wait::until_true("the monitor", || {
        host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &["'vm1'"]).unwrap();
        monitor.log().count("vm1") > 0
    });
    monitor
}

#[test]
fn prints_all_packets_and_decisions_to_every_user() {
    privileged!();
    let host = Host::new();
    let _site = Site::new(&host);
    let mut monitor = start(&host, &[]);
    host.sh(&format!("wakeonlan -i 127.0.0.1 {OTHER_MAC}"));
    let packet = monitor.log().wait_for("\tpacket\t");
    assert!(packet.ends_with(&format!("Z\tpacket\t{OTHER_MAC}\tudp4 from 127.0.0.1 on lo")), "{packet}");
    let decision = monitor.log().wait_for("\tnot-allowed\t");
    assert!(decision.contains("\tvm2\t127.0.0.1 on lo\t"), "{decision}");
    monitor.signal(Signal::SIGINT);
    assert!(monitor.wait_for_exit().success());
}

#[test]
fn prints_documented_json() {
    privileged!();
    let host = Host::new();
    let _site = Site::new(&host);
    let monitor = start(&host, &["--json"]);
    host.sh(&format!("wakeonlan -i 127.0.0.1 {ALLOWED_MAC}"));
    let keys = documented("monitor");
    let value = |line: String| -> Value { serde_json::from_str(&line).unwrap() };
    let packet = value(monitor.log().wait_for("\"event\":\"packet\""));
    let keys_of_others = ["ethertype", "copies", "interface-alternatives", "source-mac", "vlan"];
    assert_documented(&packet, &keys, &keys_of_others);
    let decision = value(monitor.log().wait_for("\"trigger\":\"packet\""));
    assert_eq!((&decision["event"], &decision["domain"]), (&"decision".into(), &"vm1".into()));
    let mut keys_of_decisions = documented("history");
    keys_of_decisions.extend(keys.into_iter().filter(|(key, _)| key == "event"));
    let absent = ["number", "time", "caller", "authority", "vlan", "source-mac"];
    assert_documented(&decision, &keys_of_decisions, &absent);
}
