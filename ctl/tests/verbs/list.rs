//! `wakevirtctl list`, `show` and `history`.

use serde_json::Value;

use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::TEST;
use wakevirt_tests::project::json::{assert_documented, documented};
use wakevirt_tests::{privileged, wait};

use crate::site::{ALLOWED_MAC, OTHER_MAC, Site, run};

#[test]
fn lists_domains_with_their_rules() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let text = site.ctl(&["list"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[1], ["vm1", "shut off", ALLOWED_MAC, "yes", "", "domain = \"vm1\""]);
    assert_eq!(lines[2], ["vm2", "shut off", OTHER_MAC, "no", "", ""]);
    assert_eq!(site.ctl(&["list", "--allowed"]).lines().count(), 1);

    let printed = run(&host, User::Unprivileged, &["list"]);
    assert_eq!(printed.status, 4, "{printed:?}");
    assert!(printed.out.is_empty(), "{printed:?}");
    assert!(printed.err.contains("usermod --append --groups wakevirt "), "{printed:?}");
    assert_eq!(run(&host, User::WakevirtMember, &["list"]).out, text);
}

#[test]
fn shows_a_domain_and_its_decisions() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &["'vm1'"]).unwrap();
    // The reply can arrive before the actor receives libvirt's event.
    let running = || Some(site.ctl(&["show", "vm1"])).filter(|text| text.contains("state\trunning\n"));
    let text = wait::until("the domain to run", running);
    assert!(text.contains("allowed\tyes, domain = \"vm1\"\n"), "{text}");
    assert!(text.contains("\tstarted\tvm1\tuser 0\t"), "{text}");
    let uuid = site.json(&["show", "vm1"])["uuid"].as_str().unwrap().to_owned();
    for name in [&uuid, ALLOWED_MAC] {
        assert_eq!(site.ctl(&["show", name]), text);
    }
    assert!(site.ctl(&["show", "vm2"]).contains("allowed\tno: neither a rule nor "));
    let xml = wakevirt_tests::libvirt::test_domain("bare", OTHER_MAC).replace("interface", "unknown");
    site.libvirtd.define(TEST, &xml);
    let text = wait::until("the actor to know the domain", || {
        let printed = run(&host, User::Root, &["show", "bare"]);
        Some(printed.out).filter(|_| printed.status == 0)
    });
    assert!(text.contains("allowed\tno: it has no MAC address\n"), "{text}");

    let printed = run(&host, User::Root, &["show", "vm3"]);
    assert_eq!(printed.status, 1, "{printed:?}");
    assert!(printed.err.contains("did you mean \"vm"), "{printed:?}");
}

#[test]
fn prints_the_history_in_pages() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    for name in ["'vm1'", "'vm2'", "'vm1'"] {
        host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &[name]).unwrap();
    }
    let text = site.ctl(&["history"]);
    let outcomes: Vec<_> = text.lines().map(|line| line.split('\t').nth(1).unwrap()).collect();
    assert_eq!(outcomes, ["already-running", "started", "started"], "{text}");
    assert_eq!(site.ctl(&["history", "-n", "1"]).lines().count(), 1);
}

#[test]
fn prints_the_packets_that_capture_stores() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let site = Site::new(&host);
    let unknown_mac = "52:54:00:01:02:99";
    let packets = || site.ctl(&["history", "--packets"]);
    assert_eq!(packets(), "");
    for mac in [unknown_mac, ALLOWED_MAC] {
        host.sh(&format!("wakeonlan -i 127.0.0.1 {mac}"));
        wait::until_true("the packet to be stored", || packets().contains(mac));
    }
    lan.etherwake(OTHER_MAC, &[]);
    let text = wait::until("the frame", || Some(packets()).filter(|text| text.contains(OTHER_MAC)));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert!(lines.len() == 3 && lines[0][0].ends_with('Z'), "{text}");
    assert_eq!(lines[0][1..5], [OTHER_MAC, "lan0", "", "ethernet"]);
    assert_eq!(lines[1][1..], [ALLOWED_MAC, "lo", "", "udp4", "127.0.0.1"]);
    assert_eq!(lines[2][1], unknown_mac);
    assert_eq!(site.ctl(&["history", "--packets", "-n", "1"]).lines().count(), 1);

    let mut keys = documented("monitor");
    keys.remove("event");
    let json = site.ctl(&["--json", "history", "--packets"]);
    let values: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_datagrams = ["source", "source-port", "destination-port", "interface-alternatives"];
    let of_frames = ["ethertype", "source-mac", "vlan", "interface-alternatives"];
    assert_documented(&values[0], &keys, &[&of_datagrams[..], &["destination"]].concat());
    assert_documented(&values[1], &keys, &of_frames);

    for user in [User::LibvirtMember, User::WakevirtMember] {
        assert_eq!(run(&host, user, &["history", "--packets"]).out, text);
    }
    let printed = run(&host, User::Unprivileged, &["history", "--packets"]);
    assert!(printed.status == 4 && printed.out.is_empty(), "{printed:?}");
    let advice = "not allowed to call Replay on wakevirt-capture: only root and members of the wakevirt and libvirt groups";
    assert!(printed.err.contains(advice), "{printed:?}");
    assert!(printed.err.contains("usermod --append --groups wakevirt "), "{printed:?}");
}
