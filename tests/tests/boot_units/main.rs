//! The units on a booted Debian system: what starts and restarts the services, and what the shipped units allow them to
//! do.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

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

/// A Debian system with wakevirt, which is not booted yet, and another machine on the network.
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

/// Enables the services, and boots the system.
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

/// How many times systemd has restarted the unit automatically.
fn restarts(debian: &Debian<'_>, unit: &str) -> u32 {
    show(debian, unit, "NRestarts").parse().expect("a number")
}

fn wait_until_active(debian: &Debian<'_>, unit: &str) {
    let active = wait::within(wait::TIMEOUT, || (state(debian, unit) == "active").then_some(()));
    assert!(active.is_some(), "{unit} is {}:\n{}", state(debian, unit), debian.journal(unit));
}

/// Runs a shell command that can fail.
fn run(debian: &Debian<'_>, line: &str) -> Output {
    debian.command("bash").args(["-euc", line]).output().expect("bash runs")
}

fn define_domain(debian: &Debian<'_>) {
    debian.write("/root/win11.xml", &qemu_domain(DOMAIN, MAC, "br0"));
    debian.sh("virsh --quiet --connect qemu:///system define /root/win11.xml");
}

fn wake(debian: &Debian<'_>, domain: &str) -> Output {
    let line = "busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 WakeDomain s";
    run(debian, &format!("{line} {domain}"))
}

/// The packets that the announcer replays, as busctl(1) prints them.
fn replay(debian: &Debian<'_>) -> String {
    let line = "busctl call org.wakevirt.Capture1 /org/wakevirt/Capture1 org.wakevirt.Capture1 Replay st x 0";
    debian.sh(line)
}

fn wait_until_captured(debian: &Debian<'_>, mac: &str, transport: &str) {
    let (mac, transport) = (format!("\"{mac}\""), format!("\"transport\" s \"{transport}\""));
    let captured = wait::within(wait::TIMEOUT, || {
        let packets = replay(debian);
        (packets.contains(&mac) && packets.contains(&transport)).then_some(())
    });
    assert!(
        captured.is_some(),
        "no packet for {mac} with {transport} in {}:\n{}",
        replay(debian),
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
    wait_until_captured(&debian, "52:54:00:00:00:01", "ethernet");

    // In this mode, capture uses only the UDP sockets, which listen on a port below 1024.
    debian.write("/etc/wakevirt/capture.toml", "mode = \"udp\"\n");
    debian.sh(&format!("systemctl restart {CAPTURE}"));
    lan.wakeonlan("52:54:00:00:00:02", "192.0.2.255", &[]);
    wait_until_captured(&debian, "52:54:00:00:00:02", "udp4");
    send_datagram(&lan, "52:54:00:00:00:03", "fd00::1", 9);
    wait_until_captured(&debian, "52:54:00:00:00:03", "udp6");
    let announcer = debian.main_process(CAPTURE);
    let mut processes = proc::children(announcer);
    assert_eq!(processes.len(), 1, "the sniffer is not the only child");
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
    wait_until_captured(&debian, MAC, "udp4");
}

#[test]
fn sockets_start_and_stop_with_the_service() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host, Kind::DbusDaemon);
    boot_with_services(&mut debian);
    let invocations = || [SOCKET, LINKS].map(|socket| show(&debian, socket, "InvocationID"));
    let socket_states = || [SOCKET, LINKS].map(|socket| state(&debian, socket));
    let sockets = invocations();
    assert_eq!(socket_states(), ["active"; 2]);

    // The sockets survive a restart and a crash of the service, and queue packets during that time.
    debian.sh(&format!("systemctl restart {CAPTURE}"));
    kill(debian.main_process(CAPTURE), Signal::SIGKILL).expect("the process is running");
    wait::until_true("systemd to restart capture", || restarts(&debian, CAPTURE) == 1);
    wait_until_active(&debian, CAPTURE);
    assert_eq!(invocations(), sockets);

    // A stopped service stays stopped, even if packets arrive or interfaces are created.
    debian.sh(&format!("systemctl stop {CAPTURE}"));
    wait::until_true("the sockets to stop", || socket_states() == ["inactive"; 2]);
    for round in 0..5 {
        send_datagram(&lan, MAC, "192.0.2.1", 9);
        host.bridge(&format!("new{round}"));
    }
    assert_eq!(show(&debian, CAPTURE, "Result"), "success", "{}", debian.journal(CAPTURE));
    assert_eq!(state(&debian, CAPTURE), "inactive");
    assert_eq!(socket_states(), ["inactive"; 2]);
    debian.sh(&format!("systemctl start {CAPTURE}"));
    assert_eq!(socket_states(), ["active"; 2]);
}

/// Waits until the announcer's `Interfaces` property has this value.
fn wait_until_interfaces_are(debian: &Debian<'_>, expected: &str) {
    let line =
        "busctl get-property org.wakevirt.Capture1 /org/wakevirt/Capture1 org.wakevirt.Capture1 Interfaces";
    let reached = wait::within(wait::TIMEOUT, || (debian.sh(line).trim() == expected).then_some(()));
    assert!(reached.is_some(), "expected {expected}, got {}:\n{}", debian.sh(line), debian.journal(CAPTURE));
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
    second.wait_for_link();
    second.etherwake(MAC, &[]);
    wait_until_captured(&debian, MAC, "ethernet");
    assert!(replay(&debian).contains("\"interface\" s \"port2\""), "{}", replay(&debian));

    // After a restart, the same socket still reports changes.
    host.sh("ip link del port2");
    debian.sh(&format!("systemctl restart {CAPTURE}"));
    wait_until_interfaces_are(&debian, "as 3 \"br0\" \"lo\" \"port0\"");
    host.bridge("br1");
    wait_until_interfaces_are(&debian, "as 4 \"br0\" \"br1\" \"lo\" \"port0\"");

    // The netlink socket does not depend on the UDP sockets.
    debian.sh(&format!("systemctl mask --now {SOCKET} && systemctl restart {CAPTURE}"));
    host.bridge("br2");
    wait_until_interfaces_are(&debian, "as 5 \"br0\" \"br1\" \"br2\" \"lo\" \"port0\"");

    debian.sh(&format!("systemctl mask --now {LINKS}"));
    assert!(!run(&debian, &format!("systemctl restart {CAPTURE}")).status.success());
    let advice =
        format!("the service is not allowed to open a netlink socket; enable {LINKS}, which passes one");
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
    for (index, directory) in ["/opt", "/srv"].into_iter().enumerate() {
        debian.sh(&format!(
            "mkdir -p {directory}/hosts /etc/wakevirt && echo 'limt = 1' >{directory}/hosts/capture.toml
             ln -sf {directory}/hosts/capture.toml /etc/wakevirt/capture.toml"
        ));
        assert!(!run(&debian, &format!("systemctl start {CAPTURE}")).status.success());
        let errors = debian.journal(CAPTURE).matches("unknown key").count();
        assert_eq!(errors, index + 1, "{directory}: {}", debian.journal(CAPTURE));
        debian.sh(&format!("echo 'limit = 1' >{directory}/hosts/capture.toml && systemctl start {CAPTURE}"));
        debian.sh(&format!("systemctl reload {CAPTURE} && systemctl stop {CAPTURE}"));
    }
}

#[test]
fn watchdog_restarts_hung_services_but_not_for_a_hung_libvirtd() {
    privileged!();
    let host = Host::new();
    let (mut debian, _lan) = site(&host, Kind::DbusDaemon);
    for unit in [CAPTURE, ACTOR] {
        let text = read_to_string(project().join("systemd").join(unit)).expect("the unit exists");
        assert!(text.contains("\nWatchdogSec=30s\n"), "{unit}");
        debian.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), "[Service]\nWatchdogSec=4s\n");
    }
    boot_with_services(&mut debian);
    define_domain(&debian);
    wait::until_true("the actor to connect to libvirt", || debian.journal(ACTOR).contains("connected to"));
    assert!(wake(&debian, DOMAIN).status.success());
    let entry = debian.sh(&format!(
        "journalctl --sync; journalctl --output=json WAKEVIRT_DOMAIN={DOMAIN} WAKEVIRT_OUTCOME=started"
    ));
    for field in ["\"MESSAGE_ID\":\"", "\"WAKEVIRT_TRIGGER\":\"call\"", "\"WAKEVIRT_CALLER\":\"0\""] {
        assert!(entry.contains(field), "{entry}");
    }
    debian.sh(&format!("virsh --quiet --connect qemu:///system destroy {DOMAIN}"));

    let libvirtd = debian.main_process("libvirtd.service");
    kill(libvirtd, Signal::SIGSTOP).expect("the process is running");
    // The reply takes longer than the watchdog's 4 s.
    let held = wake(&debian, DOMAIN);
    assert!(held.status.success() && held.stdout == b"s \"held\"\n", "{held:?}");
    kill(libvirtd, Signal::SIGCONT).expect("the process is running");
    assert_eq!([restarts(&debian, ACTOR), restarts(&debian, CAPTURE)], [0, 0]);

    for (unit, is_sniffer) in [(CAPTURE, true), (CAPTURE, false), (ACTOR, false)] {
        let before = restarts(&debian, unit);
        let main = debian.main_process(unit);
        let hung =
            if is_sniffer { *proc::children(main).first().expect("the sniffer is running") } else { main };
        kill(hung, Signal::SIGSTOP).expect("the process is running");
        wait::until_true("the watchdog to restart the service", || restarts(&debian, unit) == before + 1);
        wait_until_active(&debian, unit);
        let timeouts = debian.journal(unit).matches("Watchdog timeout").count();
        assert_eq!(u32::try_from(timeouts), Ok(before + 1), "{}", debian.journal(unit));
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
        let reload = run(&debian, &format!("systemctl reload {unit}"));
        assert!(!reload.status.success(), "{unit}");
        assert!(debian.journal(unit).contains(&format!("{file}:1: unknown key")), "{}", debian.journal(unit));
        assert_eq!(debian.main_process(unit), process, "{unit} was restarted");
        wait::until_true("the status to report the failure", || {
            show(&debian, unit, "StatusText").contains("the last reload failed: ")
        });

        assert!(!run(&debian, &format!("systemctl restart {unit}")).status.success());
        assert_eq!(state(&debian, unit), "failed");
        assert_eq!(show(&debian, unit, "ExecMainStatus"), "78");
        assert_eq!(restarts(&debian, unit), 0);

        debian.write(file, "log = \"info\"\n");
        debian.sh(&format!("systemctl start {unit}"));
        debian.sh(&format!("systemctl reload {unit}"));
        wait_until_active(&debian, unit);
        // The service logs one line, without the settings that `--check` prints.
        wait::until_true("the reload to succeed", || debian.journal(unit).contains("configuration reloaded"));
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
    // Kill each service more often than systemd's default start limit allows, which is 5 starts in 10 s.
    for unit in [CAPTURE, ACTOR] {
        for times in 1..=7 {
            kill(debian.main_process(unit), Signal::SIGKILL).expect("the process is running");
            wait::until_true("the next restart", || restarts(&debian, unit) == times);
            wait_until_active(&debian, unit);
        }
    }

    // A long outage: capture cannot start at all.
    let sniffer = "/usr/libexec/wakevirt/wakevirt-sniffer";
    debian.sh(&format!("mv {sniffer} /root && cp /bin/false {sniffer}"));
    assert!(!run(&debian, &format!("systemctl restart {CAPTURE}")).status.success());
    wait::until_true("further restarts", || restarts(&debian, CAPTURE) >= 2);
    debian.sh(&format!("mv /root/wakevirt-sniffer {sniffer}"));
    wait_until_active(&debian, CAPTURE);
    lan.etherwake(MAC, &[]);
    wait_until_captured(&debian, MAC, "ethernet");
}

/// The actor's `Connections` property, as busctl(1) prints it.
fn connections(debian: &Debian<'_>) -> String {
    debian.sh("busctl get-property org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Connections")
}

fn wait_until_connected(debian: &Debian<'_>, connected: bool) {
    let expected = format!("\"qemu:///system\" {connected}");
    wait::until_true(&expected, || connections(debian).contains(&expected));
}

/// Whether both services own their names on the bus.
fn are_on_the_bus(debian: &Debian<'_>) -> bool {
    ["org.wakevirt.Capture1", "org.wakevirt.Actor1"].iter().all(|name| {
        // `busctl status` would start the service.
        run(debian, &format!("busctl list --unique --acquired | grep -q '^{name} '")).status.success()
    })
}

/// Starts the services in both orders before the bus, and the bus before libvirt.
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
        wait::until_true("both services to be on the bus", || are_on_the_bus(&debian));
        wait_until_connected(&debian, false);
        lan.etherwake(MAC, &[]);
        wait_until_captured(&debian, MAC, "ethernet");
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
    wait_until_captured(&debian, MAC, "ethernet");
    wait_until_connected(&debian, false);
}

/// Checks that a call on this bus starts the actor only if its unit is enabled.
fn a_call_starts_the_actor_only_if_enabled(bus: Kind) {
    let host = Host::new();
    let (mut debian, _lan) = site(&host, bus);
    debian.boot();
    assert!(!wake(&debian, DOMAIN).status.success());
    assert_eq!(state(&debian, ACTOR), "inactive");

    define_domain(&debian);
    debian.sh(&format!("systemctl enable {ACTOR}"));
    assert_eq!(state(&debian, ACTOR), "inactive");
    // A call can arrive before the actor has listed the domains.
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
    // `systemctl restart A B` queues one job after the other, and the first can finish before the second is queued.
    // A target restarts both in one transaction.
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
    let timestamp = |unit, property| show(&debian, unit, property).parse::<u64>().expect("microseconds");
    assert!(
        timestamp(CAPTURE, "InactiveEnterTimestampMonotonic")
            <= timestamp(ACTOR, "InactiveEnterTimestampMonotonic")
    );
    assert!(
        timestamp(ACTOR, "ActiveEnterTimestampMonotonic")
            <= timestamp(CAPTURE, "InactiveExitTimestampMonotonic")
    );
}
