//! Tests for the test bench itself.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::host::{Host, User, succeed};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, qemu_domain, test_domain};
use wakevirt_tests::network::frames::{BROADCAST, ethernet, magic, udp4};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";

#[test]
fn hosts_are_isolated() {
    privileged!();
    let (one, other) = (Host::new(), Host::new());
    one.bridge("br0");
    one.write("/etc/only-here", "");
    assert!(one.sh("ip -brief link").contains("br0"));
    assert!(!other.sh("ip -brief link").contains("br0"));
    assert!(!other.path("/etc/only-here").exists());
    assert!(!std::path::Path::new("/etc/only-here").exists());
}

#[test]
fn processes_end_with_their_host() {
    privileged!();
    let host = Host::new();
    let process = Process::start("sleep", host.command("sleep").arg("600"));
    let pid = process.pid();
    drop(host);
    wait::until_true("the process to end", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_stopped_process_can_be_continued_and_killed() {
    privileged!();
    let host = Host::new();
    let mut process = Process::start("sleep", host.command("sleep").arg("600"));
    process.signal(Signal::SIGSTOP);
    wait::until_true("the process to stop", || process.status().field("State").starts_with('T'));
    process.signal(Signal::SIGCONT);
    wait::until_true("the process to continue", || process.status().field("State").starts_with('S'));
    process.signal(Signal::SIGSTOP);
    process.kill();
    assert_eq!(process.exit_status().unwrap().signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn users_are_in_their_groups() {
    privileged!();
    let host = Host::new();
    let groups = |user| succeed(host.command_as(user, "id").arg("-Gn"));
    for (user, group) in [(User::LibvirtMember, "libvirt"), (User::WakevirtMember, "wakevirt")] {
        let groups = groups(user);
        assert!(groups.split_whitespace().any(|name| name == group), "{user:?} is only in {groups}");
    }
    for user in [User::Actor, User::Unprivileged] {
        assert_eq!(groups(user).trim(), user.name());
    }
}

#[test]
fn frames_arrive_through_veth_tap_and_tun() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("port0");
    lan.address("192.0.2.2/24");
    let (mut tap, mut tun) = (host.tap("tap0"), host.tun("tun0"));
    let dump = |interface| {
        let mut tcpdump = host.command("tcpdump");
        tcpdump.args(["-n", "-l", "--immediate-mode", "-Q", "in", "-i", interface]);
        let tcpdump = Process::start("tcpdump", &mut tcpdump);
        let _ = tcpdump.log().wait_for("listening on");
        tcpdump
    };
    let [port0, tap0, tun0] = ["port0", "tap0", "tun0"].map(dump);

    let ip = udp4(Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::BROADCAST, 9, &magic(MAC, &[]));
    lan.etherwake(MAC, &[]);
    lan.wakeonlan(MAC, "192.0.2.255", &[]);
    lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], 0x0800, &ip));
    tap.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 2], 0x0800, &ip));
    tun.send(&ip);

    let crafted = "198.51.100.1.40000 > 255.255.255.255.9: UDP, length 102";
    for text in ["0x0842", "192.0.2.2.", crafted] {
        let _ = port0.log().wait_for(text);
    }
    let _ = tap0.log().wait_for(crafted);
    let _ = tun0.log().wait_for(crafted);
    drop(tap);
    wait::until_true("the tap device to disappear", || !host.sh("ip -brief link").contains("tap0"));
}

#[test]
fn both_buses_identify_callers_and_can_be_restarted() {
    privileged!();
    for kind in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let mut bus = Bus::start(&host, kind);
        let name = ["'org.wakevirt.Capture1'", "uint32 4"];
        let request_name = |user| host.call(user, "org.freedesktop.DBus", "RequestName", &name);
        let denied = request_name(User::Unprivileged).unwrap_err();
        assert_eq!(denied.name, "org.freedesktop.DBus.Error.AccessDenied", "{kind:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connection = bus.connect().await;
            assert!(connection.unique_name().is_some());
            bus.kill();
            connection.closed().await;
        });
        bus.start_again();
        assert!(!host.name_is_owned("org.wakevirt.Capture1"));
    }
}

#[test]
fn libvirtd_runs_domains_of_two_drivers_and_can_be_restarted() {
    privileged!();
    let host = Host::new();
    host.bridge("br0");
    let mut libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm1", MAC));
    libvirtd.define(QEMU, &qemu_domain("vm1", MAC, "br0"));
    for uri in [TEST, QEMU] {
        assert_eq!(libvirtd.state(uri, "vm1"), "shut off");
        libvirtd.virsh(uri, &["start", "vm1"]);
        libvirtd.wait_for_state(uri, "vm1", "running");
    }
    libvirtd.kill();
    libvirtd.start_again();
    assert_eq!(libvirtd.state(QEMU, "vm1"), "running");
    assert_eq!(libvirtd.virsh(TEST, &["list", "--all", "--name"]), "test");
    libvirtd.virsh(QEMU, &["destroy", "vm1"]);
    assert_eq!(libvirtd.state(QEMU, "vm1"), "shut off");
}
