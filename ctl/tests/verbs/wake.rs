//! `wakevirtctl wake`.

use nix::sys::signal::Signal;
use serde_json::Value;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, linux};
use wakevirt_tests::process::Process;
use wakevirt_tests::project::json::{assert_documented, documented};
use wakevirt_tests::{privileged, wait};

use crate::site::{OTHER_MAC, Printed, Site, run};

#[test]
fn wakes_by_name_address_and_glob() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    assert_eq!(site.ctl(&["wake", "vm1"]), "vm1: started\n");
    assert_eq!(site.libvirtd.state(TEST, "vm1"), "running");
    assert_eq!(site.ctl(&["wake", "vm1"]), "vm1: already-running\n");
    assert_eq!(site.json(&["wake", OTHER_MAC])["outcome"], "started");
    // The name is a pattern only with the option.
    let printed = run(&host, User::Root, &["wake", "vm*"]);
    assert_eq!(printed.status, 1, "{printed:?}");
    assert!(printed.err.contains("\"vm*\""), "{printed:?}");
    let text = site.ctl(&["wake", "--glob", "vm*"]);
    assert_eq!(text.matches(": already-running\n").count(), 2, "{text}");
    let printed = run(&host, User::Root, &["wake", "--glob", "win*"]);
    assert_eq!((printed.status, printed.out.as_str()), (1, ""), "{printed:?}");
    assert!(printed.err.contains("matches the pattern \"win*\""), "{printed:?}");
}

#[test]
fn prefers_a_domain_whose_name_is_an_address() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let name = wakevirt_tests::libvirt::test_domain(OTHER_MAC, "52:54:00:01:02:09");
    site.libvirtd.define(TEST, &name);
    wait::until_true("the actor to know the domain", || {
        site.ctl(&["list"]).contains(&format!("{OTHER_MAC}\tshut"))
    });
    site.ctl(&["wake", OTHER_MAC]);
    assert_eq!(site.libvirtd.state(TEST, OTHER_MAC), "running");
    assert_eq!(site.libvirtd.state(TEST, "vm2"), "shut off");
}

#[test]
fn names_the_missing_permission() {
    privileged!();
    let host = Host::new();
    let _site = Site::new(&host);
    let printed = run(&host, User::Unprivileged, &["wake", "vm1"]);
    assert_eq!(printed.status, 4, "{printed:?}");
    assert!(printed.err.contains("libvirt"), "{printed:?}");
    assert_eq!(run(&host, User::LibvirtMember, &["wake", "vm1"]).out, "vm1: started\n");
}

#[test]
fn stops_waiting_and_says_that_the_wake_continues() {
    privileged!();
    let host = Host::new();
    let mut site = Site::new(&host);
    site.libvirtd.kill();
    wait::until_true("the actor to notice", || site.ctl(&["list"]).contains("\tunknown\t"));
    let printed = run(&host, User::Root, &["wake", "--wait=100ms", "vm1"]);
    assert_eq!(printed.status, 5, "{printed:?}");
    assert!(
        printed.out.starts_with("vm1: not ended: ") && printed.out.contains("the wake continues"),
        "{printed:?}"
    );

    let mut command = host.command(&format!("{PROGRAMS}/wakevirtctl"));
    let mut waiting = Process::start("wakevirtctl", command.args(["wake", "--wait", "vm2"]));
    let state = host.path("/run/wakevirt-actor/state");
    let is_saved = || std::fs::read(&state).is_ok_and(|file| file.windows(3).any(|part| part == b"vm2"));
    wait::until_true("the wake of vm2", is_saved);
    waiting.signal(Signal::SIGINT);
    assert_eq!(waiting.wait_for_exit().code(), Some(5));
    let line = waiting.log().wait_for("interrupted");
    assert!(line.contains("the wake continues"), "{line}");
}

#[test]
fn waits_until_the_guest_answers() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    host.bridge("br0");
    let libvirtd = Libvirtd::start(&host);
    linux::start_network(&libvirtd);
    linux::define(&libvirtd, "lease", "52:54:00:00:00:01", "");
    // Its link is down, so that it cannot answer at an address before its agent is connected.
    let mac = "52:54:00:00:00:02";
    linux::define(&libvirtd, "agent", mac, linux::AGENT);
    libvirtd.virsh(QEMU, &["domif-setlink", "agent", mac, "down", "--config"]);
    Machine::new("silent").device(linux::AGENT).define(&libvirtd);
    Machine::new("plain").define(&libvirtd);
    let _actor = Daemon::actor(&host).config(&format!("connections = [\"{QEMU}\"]\n")).start_connected();
    let wake = |option: &str, domain: &str| {
        let printed = run(&host, User::Root, &["wake", option, domain]);
        (printed.status, printed.out, printed.err)
    };

    let (status, out, err) = wake("--wait", "agent");
    assert_eq!((status, out.as_str()), (0, "agent: started: the guest agent is connected\n"), "{err}");
    let (status, out, err) = wake("--wait", "lease");
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.starts_with("lease: started: the guest answers at 192.168.122."), "{out}");
    let printed = run(&host, User::Root, &["--json", "wake", "--wait", "lease"]);
    let result: Value = serde_json::from_str(&printed.out).unwrap();
    assert_documented(&result, &documented("wake"), &["reason"]);
    assert_eq!((&result["outcome"], &result["guest"]), (&"already-running".into(), &"address".into()));
    assert!(result["address"].as_str().unwrap().starts_with("192.168.122."), "{result}");

    // The DHCP lease and the neighbour entry of the previous guest remain. A guest that does not start does not answer.
    libvirtd.virsh(QEMU, &["destroy", "lease"]);
    libvirtd.virsh(QEMU, &["undefine", "lease"]);
    let explain = |domain: &str| run(&host, User::Root, &["explain", domain]);
    let is_unknown = |explained: &Printed| explained.err.contains("no domain has the name");
    wait::until_true("the actor to forget the domain", || is_unknown(&explain("lease")));
    linux::define_without_kernel(&libvirtd, "lease", "52:54:00:00:00:01");
    for domain in ["lease", "silent"] {
        wait::until_true("the actor to know the domain, and the cool-down to end", || {
            let explained = explain(domain);
            !is_unknown(&explained) && !explained.out.contains("cool-down")
        });
        // Long enough for the start of QEMU on a busy machine.
        let (status, out, err) = wake("--wait=10s", domain);
        assert_eq!(status, 5, "{out}{err}");
        assert_eq!(out, format!("{domain}: started: timed out after 10s; the guest has not answered yet\n"));
    }
    assert_eq!(wake("--wait", "plain"), (0, "plain: started\n".to_owned(), String::new()));
}
