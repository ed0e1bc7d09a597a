//! The units on a systemd that has really booted: what starts them, what starts them again, and what they
//! may do under the lines that are shipped.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may stop where it stands")]

mod drop_ins;

use std::fs::read_to_string;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project};
use wakevirt_tests::libvirt::qemu_domain;
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::proc;
use wakevirt_tests::{privileged, wait};

const CAPTURE: &str = "wakevirt-capture.service";
const SOCKET: &str = "wakevirt-capture.socket";
const LINKS: &str = "wakevirt-capture-links.socket";
const ACTOR: &str = "wakevirt-actor.service";

const DOMAIN: &str = "win11";
const MAC: &str = "52:54:00:12:34:56";

/// A machine on the network, and a Debian with wakevirt that is not booted yet.
fn site(host: &Host, bus: Kind) -> (Debian<'_>, Peer<'_>) {
    let debian = Debian::new(host, bus);
    debian.install();
    host.bridge("br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0
             ip address add 192.0.2.1/24 brd + dev br0
             ip address add fd00::1/64 dev br0 nodad");
    lan.address("192.0.2.2/24");
    lan.address("fd00::2/64");
    (debian, lan)
}

/// Enables the services, and boots.
fn boot_with_services(debian: &mut Debian<'_>) {
    let enabled = debian.chroot("systemctl").args(["enable", CAPTURE, ACTOR]).output().expect("chroot runs");
    assert!(enabled.status.success(), "{enabled:?}");
    debian.boot();
    for unit in [CAPTURE, ACTOR] {
        wait_until_active(debian, unit);
    }
}

fn show(debian: &Debian<'_>, unit: &str, property: &str) -> String {
    debian.sh(&format!("systemctl show --property={property} --value {unit}")).trim().to_owned()
}

fn state(debian: &Debian<'_>, unit: &str) -> String {
    show(debian, unit, "ActiveState")
}

/// How often systemd has started it again by itself.
fn restarts(debian: &Debian<'_>, unit: &str) -> u32 {
    show(debian, unit, "NRestarts").parse().expect("a number")
}

fn wait_until_active(debian: &Debian<'_>, unit: &str) {
    let active = wait::within(wait::TIMEOUT, || (state(debian, unit) == "active").then_some(()));
    assert!(active.is_some(), "{unit} is {}:\n{}", state(debian, unit), debian.journal(unit));
}

/// Runs a line of shell that may fail.
fn attempt(debian: &Debian<'_>, line: &str) -> Output {
    debian.command("bash").args(["-euc", line]).output().expect("bash runs")
}

fn wake(debian: &Debian<'_>, domain: &str) -> Output {
    let line = "busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 WakeDomain s";
    attempt(debian, &format!("{line} {domain}"))
}

/// What the announcer remembers, as busctl(1) shows it.
fn remembered(debian: &Debian<'_>) -> String {
    let line = "busctl call org.wakevirt.Capture1 /org/wakevirt/Capture1 org.wakevirt.Capture1 Replay st x 0";
    debian.sh(line)
}

fn wait_until_remembered(debian: &Debian<'_>, mac: &str, transport: &str) {
    let (mac, transport) = (format!("\"{mac}\""), format!("\"transport\" s \"{transport}\""));
    let heard = wait::within(wait::TIMEOUT, || {
        let packets = remembered(debian);
        (packets.contains(&mac) && packets.contains(&transport)).then_some(())
    });
    assert!(
        heard.is_some(),
        "{mac} by {transport} is not in {}:\n{}",
        remembered(debian),
        debian.journal(CAPTURE)
    );
}

/// Sends a datagram with a magic packet.
fn send_datagram(lan: &Peer<'_>, mac: &str, address: &str, port: u16) {
    let program = "import socket, sys
mac, address, port = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
packet = b'\\xff' * 6 + bytes.fromhex(mac.replace(':', '')) * 16
socket.socket(family, socket.SOCK_DGRAM).sendto(packet, (address, int(port)))";
    let sent = lan.command("python3").args(["-c", program, mac, address, &port.to_string()]).status();
    assert!(sent.expect("python3 runs").success());
}

#[test]
fn capture_receives_packets_under_the_shipped_units() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    lan.etherwake("52:54:00:00:00:01", &[]);
    wait_until_remembered(&debian, "52:54:00:00:00:01", "ethernet");

    // By the UDP sockets alone, which are for a port below 1024.
    debian.write("/etc/wakevirt/capture.toml", "mode = \"udp\"\n");
    debian.sh(&format!("systemctl restart {CAPTURE}"));
    lan.wakeonlan("52:54:00:00:00:02", "192.0.2.255", &[]);
    wait_until_remembered(&debian, "52:54:00:00:00:02", "udp4");
    send_datagram(&lan, "52:54:00:00:00:03", "fd00::1", 9);
    wait_until_remembered(&debian, "52:54:00:00:00:03", "udp6");
    let announcer = debian.main_process(CAPTURE);
    let mut processes = proc::children(announcer);
    assert_eq!(processes.len(), 1, "the sniffer");
    processes.push(announcer);
    for process in processes.into_iter().map(proc::Status::of) {
        assert_ne!(process.effective_uid(), 0);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(process.capabilities(set), 0, "{set}");
        }
    }
}

#[test]
fn a_datagram_starts_capture_if_its_socket_is_enabled() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    debian.boot();
    debian.sh(&format!("systemctl enable --now {SOCKET}"));
    assert_eq!(state(&debian, CAPTURE), "inactive");
    send_datagram(&lan, MAC, "192.0.2.1", 9);
    wait_until_active(&debian, CAPTURE);
    wait_until_remembered(&debian, MAC, "udp4");
}

#[test]
fn sockets_start_and_stop_with_the_service() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    let invocations = || [SOCKET, LINKS].map(|socket| show(&debian, socket, "InvocationID"));
    let sockets = invocations();
    assert_eq!([SOCKET, LINKS].map(|socket| state(&debian, socket)), ["active"; 2]);

    // It stays over a restart and over a crash: what arrives meanwhile waits in it.
    debian.sh(&format!("systemctl restart {CAPTURE}"));
    kill(debian.main_process(CAPTURE), Signal::SIGKILL).expect("it runs");
    wait::until_true("a second start", || restarts(&debian, CAPTURE) == 1);
    wait_until_active(&debian, CAPTURE);
    assert_eq!(invocations(), sockets);

    // What the administrator has stopped stays stopped, whoever sends, and whatever is plugged in.
    debian.sh(&format!("systemctl stop {CAPTURE}"));
    wait::until_true("the sockets to go", || {
        [SOCKET, LINKS].map(|socket| state(&debian, socket)) == ["inactive"; 2]
    });
    for round in 0..5 {
        send_datagram(&lan, MAC, "192.0.2.1", 9);
        host.bridge(&format!("new{round}"));
    }
    assert_eq!(show(&debian, CAPTURE, "Result"), "success", "{}", debian.journal(CAPTURE));
    assert_eq!(state(&debian, CAPTURE), "inactive");
    assert_eq!([SOCKET, LINKS].map(|socket| state(&debian, socket)), ["inactive"; 2]);
    debian.sh(&format!("systemctl start {CAPTURE}"));
    assert_eq!([SOCKET, LINKS].map(|socket| state(&debian, socket)), ["active"; 2]);
}

/// Waits until these are all the interfaces that the announcer knows.
fn wait_until_interfaces_are(debian: &Debian<'_>, names: &str) {
    let line =
        "busctl get-property org.wakevirt.Capture1 /org/wakevirt/Capture1 org.wakevirt.Capture1 Interfaces";
    let known = wait::within(wait::TIMEOUT, || (debian.sh(line).trim() == names).then_some(()));
    assert!(known.is_some(), "{names} is not {}:\n{}", debian.sh(line), debian.journal(CAPTURE));
}

#[test]
fn capture_follows_interfaces_only_through_the_passed_socket() {
    privileged!();
    let host = Host::new();
    let (mut debian, _lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    wait_until_interfaces_are(&debian, "as 3 \"br0\" \"lo\" \"port0\"");
    let second = host.veth("port1");
    wait_until_interfaces_are(&debian, "as 4 \"br0\" \"lo\" \"port0\" \"port1\"");
    host.sh("ip link set port1 down && ip link set port1 name port2 && ip link set port2 up");
    wait_until_interfaces_are(&debian, "as 4 \"br0\" \"lo\" \"port0\" \"port2\"");
    second.etherwake(MAC, &[]);
    wait_until_remembered(&debian, MAC, "ethernet");
    assert!(remembered(&debian).contains("\"interface\" s \"port2\""), "{}", remembered(&debian));

    // By the same socket after a restart, however much has come and gone in between.
    host.sh("ip link del port2");
    debian.sh(&format!("systemctl restart {CAPTURE}"));
    wait_until_interfaces_are(&debian, "as 3 \"br0\" \"lo\" \"port0\"");
    host.bridge("br1");
    wait_until_interfaces_are(&debian, "as 4 \"br0\" \"br1\" \"lo\" \"port0\"");

    // The UDP sockets are another matter.
    debian.sh(&format!("systemctl mask --now {SOCKET} && systemctl restart {CAPTURE}"));
    host.bridge("br2");
    wait_until_interfaces_are(&debian, "as 5 \"br0\" \"br1\" \"br2\" \"lo\" \"port0\"");

    debian.sh(&format!("systemctl mask --now {LINKS}"));
    assert!(!attempt(&debian, &format!("systemctl restart {CAPTURE}")).status.success());
    let advice = format!("it may open no netlink socket; let {LINKS} hand one over");
    assert!(debian.journal(CAPTURE).contains(&advice), "{}", debian.journal(CAPTURE));
    debian.sh(&format!("systemctl unmask {LINKS} {SOCKET} && systemctl restart {CAPTURE}"));
    wait_until_active(&debian, CAPTURE);
    assert_eq!([SOCKET, LINKS].map(|socket| state(&debian, socket)), ["active"; 2]);
}

#[test]
fn capture_reads_a_symlinked_configuration() {
    privileged!();
    let host = Host::new();
    let (mut debian, _lan) = site(&host, Kind::DbusDaemon);
    debian.boot();
    for (earlier, place) in ["/opt", "/srv"].into_iter().enumerate() {
        debian.sh(&format!(
            "mkdir -p {place}/hosts /etc/wakevirt && echo 'limt = 1' >{place}/hosts/capture.toml
             ln -sf {place}/hosts/capture.toml /etc/wakevirt/capture.toml"
        ));
        assert!(!attempt(&debian, &format!("systemctl start {CAPTURE}")).status.success());
        let mistakes = debian.journal(CAPTURE).matches("unknown key").count();
        assert_eq!(mistakes, earlier + 1, "{place}: {}", debian.journal(CAPTURE));
        debian.sh(&format!("echo 'limit = 1' >{place}/hosts/capture.toml && systemctl start {CAPTURE}"));
        debian.sh(&format!("systemctl reload {CAPTURE} && systemctl stop {CAPTURE}"));
    }
}

#[test]
fn watchdog_restarts_hung_services_but_not_for_a_hung_libvirtd() {
    privileged!();
    let host = Host::new();
    let (mut debian, _lan) = site(&host, Kind::DbusDaemon);
    for unit in [CAPTURE, ACTOR] {
        let watched = read_to_string(project().join("systemd").join(unit)).expect("the unit");
        assert!(watched.contains("\nWatchdogSec=30s\n"), "{unit}");
        debian.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), "[Service]\nWatchdogSec=4s\n");
    }
    boot_with_services(&mut debian);
    debian.write("/root/win11.xml", &qemu_domain(DOMAIN, MAC, "br0"));
    debian.sh("virsh --quiet --connect qemu:///system define /root/win11.xml");
    wait::until_true("the actor to know the domain", || debian.journal(ACTOR).contains("connected to"));
    assert!(wake(&debian, DOMAIN).status.success());
    debian.sh(&format!("virsh --quiet --connect qemu:///system destroy {DOMAIN}"));

    let libvirtd = debian.main_process("libvirtd.service");
    kill(libvirtd, Signal::SIGSTOP).expect("it runs");
    // Longer than any sign of life may be missing.
    let held = wake(&debian, DOMAIN);
    assert!(held.status.success() && held.stdout == b"s \"held\"\n", "{held:?}");
    kill(libvirtd, Signal::SIGCONT).expect("it runs");
    assert_eq!([restarts(&debian, ACTOR), restarts(&debian, CAPTURE)], [0, 0]);

    for (unit, is_sniffer) in [(CAPTURE, true), (CAPTURE, false), (ACTOR, false)] {
        let earlier = restarts(&debian, unit);
        let main = debian.main_process(unit);
        let hung = if is_sniffer { *proc::children(main).first().expect("the sniffer") } else { main };
        kill(hung, Signal::SIGSTOP).expect("it runs");
        wait::until_true("the watchdog", || restarts(&debian, unit) == earlier + 1);
        wait_until_active(&debian, unit);
        let timeouts = debian.journal(unit).matches("Watchdog timeout").count();
        assert_eq!(u32::try_from(timeouts), Ok(earlier + 1), "{}", debian.journal(unit));
    }
}

#[test]
fn a_bad_configuration_is_reported_and_not_retried() {
    privileged!();
    let host = Host::new();
    let (mut debian, _lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    for (unit, file) in [(CAPTURE, "/etc/wakevirt/capture.toml"), (ACTOR, "/etc/wakevirt/actor.toml")] {
        let process = debian.main_process(unit);
        debian.write(file, "lgo = \"info\"\n");
        let reload = attempt(&debian, &format!("systemctl reload {unit}"));
        assert!(!reload.status.success(), "{unit}");
        assert!(debian.journal(unit).contains(&format!("{file}:1: unknown key")), "{}", debian.journal(unit));
        assert_eq!(debian.main_process(unit), process, "it goes on");
        wait::until_true("the status", || {
            show(&debian, unit, "StatusText").contains("the last reload failed: ")
        });

        assert!(!attempt(&debian, &format!("systemctl restart {unit}")).status.success());
        assert_eq!(state(&debian, unit), "failed");
        assert_eq!(show(&debian, unit, "ExecMainStatus"), "78");
        assert_eq!(restarts(&debian, unit), 0);

        debian.write(file, "log = \"info\"\n");
        debian.sh(&format!("systemctl start {unit}"));
        debian.sh(&format!("systemctl reload {unit}"));
        wait_until_active(&debian, unit);
        // The service says so in one line; the check lists no settings.
        wait::until_true("the reload", || debian.journal(unit).contains("the configuration was read again"));
        assert!(!debian.journal(unit).contains("log = \"info\""), "{}", debian.journal(unit));
        assert!(!show(&debian, unit, "StatusText").contains("reload"));
    }
}

#[test]
fn services_restart_without_limit_and_recover() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    // More often than systemd's own limit would bear: 5 times in 10 s.
    for unit in [CAPTURE, ACTOR] {
        for times in 1..=7 {
            kill(debian.main_process(unit), Signal::SIGKILL).expect("it runs");
            wait::until_true("the next start", || restarts(&debian, unit) == times);
            wait_until_active(&debian, unit);
        }
    }

    // A long outage: it cannot start at all.
    let sniffer = "/usr/libexec/wakevirt/wakevirt-sniffer";
    debian.sh(&format!("mv {sniffer} /root && cp /bin/false {sniffer}"));
    assert!(!attempt(&debian, &format!("systemctl restart {CAPTURE}")).status.success());
    wait::until_true("further attempts", || restarts(&debian, CAPTURE) >= 2);
    debian.sh(&format!("mv /root/wakevirt-sniffer {sniffer}"));
    wait_until_active(&debian, CAPTURE);
    lan.etherwake(MAC, &[]);
    wait_until_remembered(&debian, MAC, "ethernet");
}

/// The actor's connections, as busctl(1) shows them.
fn connections(debian: &Debian<'_>) -> String {
    debian.sh("busctl get-property org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Connections")
}

fn wait_until_connected(debian: &Debian<'_>, connected: bool) {
    let there = format!("\"qemu:///system\" {connected}");
    wait::until_true(&there, || connections(debian).contains(&there));
}

/// Whether both names are on the bus.
fn are_on_the_bus(debian: &Debian<'_>) -> bool {
    ["org.wakevirt.Capture1", "org.wakevirt.Actor1"].iter().all(|name| {
        // `status` would start it.
        attempt(debian, &format!("busctl list --unique --acquired | grep -q '^{name} '")).status.success()
    })
}

/// Services that start before the bus and libvirt do, in this order.
fn services_start_before_bus_and_libvirt(bus: Kind) {
    let host = Host::new();
    let (mut debian, lan) = site(&host, bus);
    debian.boot();
    debian.sh("systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service");
    for order in [[ACTOR, CAPTURE], [CAPTURE, ACTOR]] {
        debian.sh("systemctl stop dbus.socket dbus.service");
        for unit in order {
            debian.sh(&format!("systemctl start {unit}"));
            assert_eq!(state(&debian, unit), "active");
        }
        debian.sh("systemctl start dbus.socket dbus.service");
        wait::until_true("both on the bus", || are_on_the_bus(&debian));
        wait_until_connected(&debian, false);
        lan.etherwake(MAC, &[]);
        wait_until_remembered(&debian, MAC, "ethernet");
        debian.sh("systemctl start libvirtd.socket");
        wait_until_connected(&debian, true);
        debian.sh("systemctl stop libvirtd.socket libvirtd.service");
        debian.sh(&format!("systemctl stop {CAPTURE} {ACTOR}"));
    }
}

#[test]
fn services_start_in_any_order_before_dbus_daemon_and_libvirt() {
    privileged!();
    services_start_before_bus_and_libvirt(Kind::DbusDaemon);
}

#[test]
fn services_start_in_any_order_before_dbus_broker_and_libvirt() {
    privileged!();
    services_start_before_bus_and_libvirt(Kind::DbusBroker);
}

#[test]
fn services_run_without_libvirt_installed() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    let removed = debian.chroot("sh").args(["-c", "rm /usr/sbin/libvirtd /lib/systemd/system/libvirt* && groupdel libvirt && systemd-sysusers wakevirt.conf"]).output();
    let removed = removed.expect("chroot runs");
    assert!(removed.status.success(), "{removed:?}");
    boot_with_services(&mut debian);
    lan.etherwake(MAC, &[]);
    wait_until_remembered(&debian, MAC, "ethernet");
    wait_until_connected(&debian, false);
}

/// A call starts an actor that is enabled, and no other.
fn a_call_starts_the_actor_only_if_enabled(bus: Kind) {
    let host = Host::new();
    let (mut debian, _lan) = site(&host, bus);
    debian.boot();
    assert!(!wake(&debian, DOMAIN).status.success());
    assert_eq!(state(&debian, ACTOR), "inactive");

    debian.write("/root/win11.xml", &qemu_domain(DOMAIN, MAC, "br0"));
    debian.sh("virsh --quiet --connect qemu:///system define /root/win11.xml");
    debian.sh(&format!("systemctl enable {ACTOR}"));
    assert_eq!(state(&debian, ACTOR), "inactive");
    // The actor may be asked before it knows the domains.
    let woken =
        wait::within(wait::TIMEOUT, || Some(wake(&debian, DOMAIN)).filter(|woken| woken.status.success()));
    assert_eq!(
        woken.map(|woken| woken.stdout),
        Some(b"s \"started\"\n".to_vec()),
        "{}",
        debian.journal(ACTOR)
    );
    assert_eq!(state(&debian, ACTOR), "active");
}

#[test]
fn a_call_starts_the_actor_only_if_enabled_with_dbus_daemon() {
    privileged!();
    a_call_starts_the_actor_only_if_enabled(Kind::DbusDaemon);
}

#[test]
fn a_call_starts_the_actor_only_if_enabled_with_dbus_broker() {
    privileged!();
    a_call_starts_the_actor_only_if_enabled(Kind::DbusBroker);
}

#[test]
fn a_joint_restart_stops_capture_first_and_starts_it_last() {
    privileged!();
    let host = Host::new();
    let (mut debian, _lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    // `systemctl restart A B` asks for one after the other, and the first may be done before the second is asked
    // for. A target restarts both at once.
    for unit in [CAPTURE, ACTOR] {
        debian.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), "[Unit]\nPartOf=both.target\n");
    }
    debian.write("/etc/systemd/system/both.target", "[Unit]\nDescription=Both\n");
    let before = [CAPTURE, ACTOR].map(|unit| debian.main_process(unit));
    debian.sh("systemctl daemon-reload && systemctl start both.target && systemctl restart both.target");
    let after = [CAPTURE, ACTOR].map(|unit| {
        wait_until_active(&debian, unit);
        debian.main_process(unit)
    });
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    let when = |unit, property| show(&debian, unit, property).parse::<u64>().expect("microseconds");
    assert!(
        when(CAPTURE, "InactiveEnterTimestampMonotonic") <= when(ACTOR, "InactiveEnterTimestampMonotonic")
    );
    assert!(when(ACTOR, "ActiveEnterTimestampMonotonic") <= when(CAPTURE, "InactiveExitTimestampMonotonic"));
}
