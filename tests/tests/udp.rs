//! UDP sockets: on their own, if capture lacks CAP_NET_RAW, and in addition to packet sockets.

use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy, kernel_has_landlock};
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::process::proc;
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";
const OTHER: &str = "52:54:00:01:02:04";

/// Creates a veth pair to another machine, with addresses on both ends.
fn connect(host: &Host) -> Peer<'_> {
    let lan = host.veth("lan0");
    host.sh("ip address add 192.0.2.1/24 broadcast 192.0.2.255 dev lan0 && ip address add 2001:db8::1/64 dev lan0 nodad");
    lan.address("192.0.2.2/24 broadcast 192.0.2.255");
    lan.address("2001:db8::2/64");
    lan
}

/// Sends a magic packet over UDP and IPv6.
fn send_over_ipv6(lan: &Peer<'_>, destination: &str, port: u16, mac: &str) {
    lan.sh(&format!(
        "python3 -c 'import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.sendto(b\"\\xff\" * 6 + bytes.fromhex(\"{}\") * 16, (\"{destination}\", {port}))'",
        mac.replace(':', "")
    ));
}

#[test]
fn receives_udp_without_cap_net_raw() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = connect(&host);
    let mut capture = Daemon::capture(&host)
        .started_by(StartedBy::Unprivileged)
        .config("listen = [\"0.0.0.0:4009\", \"[::]:4009\"]")
        .start_ready();
    let _ = capture.log().wait_for("capture receives UDP only");
    assert_eq!(capture.log().count("capture receives UDP only"), 1);
    host.wait_for_name(CAPTURE_NAME);
    assert_eq!(host.property(User::Unprivileged, CAPTURE_NAME, "Mode").unwrap(), "(<'udp'>,)");
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);

    // Capture does not receive the frame. It announces the broadcast with the details that the socket provides.
    lan.etherwake(OTHER, &["-b"]);
    lan.wakeonlan(MAC, "192.0.2.255", &["-p", "4009"]);
    let signal = monitor.log().wait_for("MagicPacket");
    for part in [
        "uint64 1",
        MAC,
        "'interface': <'lan0'>",
        "'transport': <'udp4'>",
        "'source': <'192.0.2.2'>",
        "'destination': <'192.0.2.255'>",
        "'destination-port': <uint16 4009>",
    ] {
        assert!(signal.contains(part), "{part} in {signal}");
    }
    send_over_ipv6(&lan, "ff02::1%eth0", 4009, MAC);
    let signal = monitor.log().wait_for_nth("MagicPacket", 2);
    for part in ["'transport': <'udp6'>", "'interface': <'lan0'>", "'destination': <'ff02::1'>"] {
        assert!(signal.contains(part), "{part} in {signal}");
    }

    // Datagrams without a magic packet are counted.
    lan.sh("python3 -c 'import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"hello\", (\"192.0.2.1\", 4009))'");
    wait::until_true("the datagram to be counted", || host.counter(CAPTURE_NAME, "Malformed") == 1);
    let sniffer = proc::Status::of(capture.child("wakevirt-sniffer"));
    assert_eq!((sniffer.field("Seccomp"), sniffer.field("NoNewPrivs")), ("2", "1"));
    capture.stop();
}

/// Passes sockets to a program with the protocol of sd_listen_fds(3): a UDP socket for both IP versions, as systemd
/// creates it for `ListenDatagram=9`, whose buffer has overflowed; a Unix socket; a netlink socket of another protocol;
/// and a netlink socket for changes to interfaces.
const ACTIVATE: &str = r#"
import os, socket, struct, sys
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); udp.bind(("::", 9))
# While the service was stopped, the socket overflowed.
SO_MEMINFO, size = 55, udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for _ in range(50): sender.sendto(bytes(500), ("::1", 9))
assert struct.unpack("9I", udp.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[8] > 0
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE); links.bind((0, 1))
for at, passed in enumerate([udp, other, uevents, links]): os.dup2(passed.fileno(), 13 + at)
for at in range(4): os.dup2(13 + at, 3 + at, inheritable=True)
os.environ.update(LISTEN_FDS="4", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[1], sys.argv[1:])
"#;

/// Starts capture with the sockets of [`ACTIVATE`], and without capabilities.
fn start_activated(host: &Host) -> Process {
    host.write("/etc/wakevirt/capture.toml", &format!("require-landlock = {}\n", kernel_has_landlock()));
    let mut activate = host.command("python3");
    let user = User::Capture.name();
    activate.args(["-c", ACTIVATE]);
    activate.args(["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--bounding-set=-all"]);
    activate.args([&format!("{PROGRAMS}/wakevirt-capture"), "--log-to", "stderr"]);
    Process::start("capture", &mut activate)
}

#[test]
fn receives_on_sockets_from_the_service_manager() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = connect(&host);
    let capture = start_activated(&host);
    let _ = capture.log().wait_for("capture receives UDP only");
    let _ = capture.log().wait_for("receiving on UDP [::]:9,");
    let _ = capture.log().wait_for("only UDP sockets and one netlink socket");
    let _ = capture.log().wait_for("its netlink protocol is not `route`");
    host.wait_for_name(CAPTURE_NAME);
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
    lan.wakeonlan(MAC, "192.0.2.255", &[]);
    let signal = monitor.log().wait_for("MagicPacket");
    assert!(
        signal.contains("'transport': <'udp4'>") && signal.contains("'source': <'192.0.2.2'>"),
        "{signal}"
    );
    send_over_ipv6(&lan, "2001:db8::1", 9, MAC);
    let signal = monitor.log().wait_for_nth("MagicPacket", 2);
    assert!(
        signal.contains("'source': <'2001:db8::2'>") && signal.contains("'interface': <'lan0'>"),
        "{signal}"
    );
    // When this counter increases, the sniffer has counted the datagrams that were queued in the socket.
    wait::until_true("the sniffer's counters", || host.counter(CAPTURE_NAME, "Malformed") > 0);
    assert_eq!(host.counter(CAPTURE_NAME, "KernelDropped"), 0);
    host.bridge("br0");
    wait::until_true("the new interface", || {
        host.property(User::Unprivileged, CAPTURE_NAME, "Interfaces").unwrap() == "(<['br0', 'lan0', 'lo']>,)"
    });
}

#[test]
fn receives_broadcasts_from_the_host_and_announces_each_packet_once() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = connect(&host);
    // Root can bind port 9.
    let mut capture = Daemon::capture(&host).started_by(StartedBy::Root).start_ready();
    assert_eq!(capture.log().count("cannot listen"), 0);
    host.wait_for_name(CAPTURE_NAME);
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);

    // Both kinds of socket receive this packet. It is announced once, with the details of the frame.
    lan.wakeonlan(MAC, "192.0.2.255", &[]);
    let signal = monitor.log().wait_for("MagicPacket");
    assert!(signal.contains("source-mac"), "{signal}");
    wait::until_true("the copy to be counted", || host.counter(CAPTURE_NAME, "Duplicates") == 1);

    // The packet socket does not receive packets that the host sends. The kernel loops this one back to the UDP socket.
    host.sh(&format!("wakeonlan -i 192.0.2.255 {OTHER}"));
    let signal = monitor.log().wait_for_nth("MagicPacket", 2);
    assert!(signal.contains(OTHER) && !signal.contains("source-mac"), "{signal}");
    assert_eq!(monitor.log().count("MagicPacket"), 2);
    capture.stop();
}

#[test]
fn exits_without_any_socket() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let mut capture = Daemon::capture(&host).started_by(StartedBy::Unprivileged).start();
    assert!(!capture.wait_for_exit().success());
    for part in [
        "cannot listen on UDP 0.0.0.0:9",
        "wakevirt-capture.socket",
        "neither a packet socket nor a UDP socket",
    ] {
        let _ = capture.log().wait_for(part);
    }
    let mut raw =
        Daemon::capture(&host).started_by(StartedBy::Unprivileged).options(&["--mode", "raw"]).start();
    assert!(!raw.wait_for_exit().success());
    let _ = raw.log().wait_for("mode = \"raw\" needs CAP_NET_RAW");
}

#[test]
fn warns_about_a_udp_port_in_use() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let other = Process::start(
        "another program",
        host.command("python3").args([
            "-uc",
            "import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"0.0.0.0\", 4009)); print(\"bound\"); time.sleep(60)",
        ]),
    );
    let _ = other.log().wait_for("bound");
    let mut capture = Daemon::capture(&host).options(&["--listen", "0.0.0.0:4009"]).start_ready();
    let line = capture.log().wait_for("cannot listen on UDP 0.0.0.0:4009");
    assert!(line.contains("WARN") && line.contains("another program uses the port"), "{line}");
    capture.stop();
}
