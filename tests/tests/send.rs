//! `wakevirtctl send`: capture receives what another machine sends with it.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::process::{Command, Output, Stdio};

use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::network::Peer;
use wakevirt_tests::privileged;
use wakevirt_tests::process::Process;

/// A different MAC address for each packet, so that none is a copy of another.
fn mac(number: u8) -> String {
    format!("52:54:00:0a:00:{number:02x}")
}

/// `wakevirtctl send` on another machine, with these arguments.
fn command(lan: &Peer<'_>, arguments: &[&str]) -> Command {
    let mut command = lan.command(&format!("{PROGRAMS}/wakevirtctl"));
    command.arg("send").args(arguments);
    command
}

/// Runs a command, and returns its exit status, standard output and standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// Sends a packet, and checks that capture announces it with these details.
fn assert_announced(lan: &Peer<'_>, monitor: &Process, number: u8, arguments: &[&str], details: &[&str]) {
    let mac = mac(number);
    let (status, stdout, stderr) = run(&mut command(lan, &[&[mac.as_str()][..], arguments].concat()));
    assert_eq!(status, Some(0), "{arguments:?}: {stdout}{stderr}");
    assert!(stdout.contains(&mac) && stdout.contains("1 packet to "), "{arguments:?}: {stdout}");
    let signal = monitor.log().wait_for(&mac);
    for detail in details {
        assert!(signal.contains(detail), "{arguments:?}: {detail} in {signal}");
    }
}

#[test]
fn capture_receives_what_it_sends() {
    privileged!();
    let host = Host::new();
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    host.sh("ip address add 192.0.2.1/24 broadcast 192.0.2.255 dev lan0");
    lan.address("192.0.2.2/24 broadcast 192.0.2.255");
    lan.address("fe80::2/64");
    let mut capture = Daemon::capture(&host).config("interfaces = [\"lan0\"]").start_on_bus();
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
    host.write("/run/secret", "01:02:03:04:05:06\n");

    let datagram =
        ["'transport': <'udp4'>", "'destination': <'192.0.2.255'>", "'destination-port': <uint16 9>"];
    assert_announced(&lan, &monitor, 1, &[], &datagram);
    // Without an IPv4 address, only the IPv6 packet is sent.
    lan.sh("ip address del 192.0.2.2/24 dev eth0");
    assert_announced(
        &lan,
        &monitor,
        2,
        &["--interface", "eth0"],
        &["'transport': <'udp6'>", "'destination': <'ff02::1'>"],
    );
    lan.address("192.0.2.2/24 broadcast 192.0.2.255");
    assert_announced(
        &lan,
        &monitor,
        3,
        &["--raw"],
        &["'transport': <'ethernet'>", "'ethertype': <uint16 2114>"],
    );
    let unicast = ["'destination': <'192.0.2.1'>", "'destination-port': <uint16 7>", "'secureon': <false>"];
    assert_announced(&lan, &monitor, 4, &["--to", "192.0.2.1", "--port", "7"], &unicast);
    assert_announced(&lan, &monitor, 5, &["--secure-on", "@/run/secret"], &["'secureon': <true>"]);

    assert_unsendable_packets_are_rejected(&lan);
    assert_packets_are_counted(&host, &lan);
    assert_name_requires_actor(&host, &lan, &monitor);
    capture.stop();
    drop(bus);
    let (status, _, stderr) = run(&mut command(&lan, &[&mac(8)]));
    assert_eq!(status, Some(0), "cannot send to a MAC address without the bus: {stderr}");
}

/// Checks that a packet that cannot be sent leads to exit status 1, and to an error that says what is wrong.
fn assert_unsendable_packets_are_rejected(lan: &Peer<'_>) {
    let program = format!("{PROGRAMS}/wakevirtctl");
    let mut unprivileged = lan.command("setpriv");
    let user = User::Unprivileged.name();
    unprivileged.args([
        "--reuid",
        user,
        "--regid",
        user,
        "--clear-groups",
        "--bounding-set=-all",
        "--",
        &program,
    ]);
    let mac = mac(6);
    let (status, stdout, stderr) = run(unprivileged.args(["send", "--raw", &mac]));
    assert_eq!(status, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("CAP_NET_RAW") && stdout.contains("sudo"), "{stdout}{stderr}");
    assert!(stdout.contains("0 packets"), "{stdout}");
    for (arguments, error) in [
        (&["--interface", "eth7"][..], "does not exist"),
        (&["--interface", "lo"], "--to"),
        (&["--interface", "lo", "--raw"], "not an Ethernet interface"),
        (&["--secure-on", "@/no/such"], "/no/such"),
        (&["--to", "no-such-host.invalid"], "no-such-host.invalid"),
    ] {
        let (status, stdout, stderr) = run(&mut command(lan, &[arguments, &[&mac]].concat()));
        assert_eq!(status, Some(1), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(error), "{arguments:?}: {stderr}");
    }
    let (status, _, stderr) = run(&mut command(lan, &["ff:ff:ff:ff:ff:ff"]));
    assert!(status == Some(1) && stderr.contains("no network card"), "{stderr}");
}

/// Checks that each copy reaches the host, and that the JSON output reports how many were sent.
fn assert_packets_are_counted(host: &Host, lan: &Peer<'_>) {
    let before = host.counter(CAPTURE_NAME, "Received");
    let password = Stdio::from(std::fs::File::open(host.path("/run/secret")).expect("the file exists"));
    let arguments = ["--raw", "--count", "3", "--interval", "10ms", "--secure-on", "-", "--json"];
    let mac = mac(7);
    let (status, stdout, stderr) =
        run(command(lan, &[&[mac.as_str()][..], &arguments].concat()).stdin(password));
    assert_eq!(status, Some(0), "{stderr}");
    let reports: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(reports[0]["mac"], mac.as_str());
    assert_eq!(reports[0]["sent"][0]["packets"], 3);
    assert_eq!(reports[0]["sent"][0]["interface"], "eth0");
    wakevirt_tests::wait::until_true("three packets", || {
        host.counter(CAPTURE_NAME, "Received") == before + 3
    });
}

/// Checks that a name requires the actor, which knows the addresses of its domains.
fn assert_name_requires_actor(host: &Host, lan: &Peer<'_>, monitor: &Process) {
    let (status, _, stderr) = run(&mut command(lan, &["test"]));
    assert!(status == Some(3) && stderr.contains("wakevirt-actor is not running"), "{stderr}");
    let _actor = Daemon::actor(host).config("connections = [\"test:///default\"]").start_connected();
    let (status, stdout, stderr) = run(&mut command(lan, &["test"]));
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    let _ = monitor.log().wait_for("aa:bb:cc:dd:ee:ff");
    let (status, _, stderr) = run(&mut command(lan, &["tes"]));
    assert!(status == Some(1) && stderr.contains("wakevirtctl list"), "{stderr}");
}
