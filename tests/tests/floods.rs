//! Floods of magic packets on real interfaces, with valid packets among them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::{Duration, Instant};

use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, User, succeed};
use wakevirt_tests::libvirt::{Libvirtd, TEST, define_all, test_domain};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic};
use wakevirt_tests::network::{FAR_END, Peer};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

/// The number of packets in a burst. The channel between the sniffer and the announcer has room for several bursts, so
/// a busy machine loses none.
const BURST: u16 = 100;

/// The number of packets in a burst that exceeds all limits, even if a busy machine takes seconds for each burst: 100
/// packets, and the first one for each of 100 addresses.
const FLOOD: u16 = 250;

/// A host with capture and a subscriber.
struct Scene<'host> {
    host: &'host Host,
    bus: Bus<'host>,
    capture: Daemon,
    monitor: Process,
    sent: u64,
}

impl<'host> Scene<'host> {
    fn new(host: &'host Host, config: &str, interest: &[String]) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let capture = Daemon::capture(host).started_by(StartedBy::Manager).config(config).start_on_bus();
        let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
        // The interest remains for a while after its client disconnects.
        let bytes =
            |mac: &String| format!("[{}]", bytes_of(mac).map(|byte| format!("byte {byte}")).join(", "));
        let interest: Vec<String> = interest.iter().map(bytes).collect();
        host.call(
            User::WakevirtMember,
            CAPTURE_NAME,
            "SetInterest",
            &[&format!("[{}]", interest.join(", "))],
        )
        .unwrap();
        Self { host, bus, capture, monitor, sent: 0 }
    }

    /// The value of one of capture's numeric properties.
    fn count(&self, property: &str) -> u64 {
        self.host.counter(CAPTURE_NAME, property)
    }

    /// Sends all frames at once from the peer.
    fn burst(&mut self, from: &Peer<'_>, frames: &[Vec<u8>]) {
        let script = "import socket, sys\n\
                      wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
                      wire.bind((sys.argv[1], 0))\n\
                      for frame in sys.argv[2:]: wire.send(bytes.fromhex(frame))";
        let mut command = from.command("python3");
        succeed(command.args(["-c", script, FAR_END]).args(frames.iter().map(|frame| hex(frame))));
        self.sent += frames.len() as u64;
    }

    /// Sends all payloads at once to port 9 of the loopback address, as an unprivileged user.
    fn loopback_burst(&mut self, payloads: &[Vec<u8>]) {
        let script = "import socket, sys\n\
                      udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                      for payload in sys.argv[1:]: udp.sendto(bytes.fromhex(payload), ('127.0.0.1', 9))";
        let mut command: Command = self.host.command_as(User::Unprivileged, "python3");
        succeed(command.args(["-c", script]).args(payloads.iter().map(|payload| hex(payload))));
        self.sent += payloads.len() as u64;
    }

    fn epoch(&self) -> String {
        let epoch = self.host.property(User::Unprivileged, CAPTURE_NAME, "Epoch").unwrap();
        epoch.trim_start_matches("(<").trim_end_matches(">,)").to_owned()
    }

    /// All pages of the packets that the announcer replays.
    fn replay(&self) -> String {
        let epoch = self.epoch();
        let (mut pages, mut after) = (String::new(), 0);
        loop {
            let arguments = [&*epoch, &format!("uint64 {after}")];
            let page = self.host.call(User::WakevirtMember, CAPTURE_NAME, "Replay", &arguments).unwrap();
            pages += &page;
            let (flags, packets) = page.split_once('[').unwrap();
            if flags.ends_with("false, ") {
                return pages;
            }
            // The sequence number precedes the address.
            let (before, _) = packets.rsplit_once(", '52:54:").unwrap();
            let digits = before.rsplit(|char: char| !char.is_ascii_digit()).next().unwrap();
            after = digits.parse().unwrap();
        }
    }

    fn wait_until_captured(&self) {
        wait::until_true("all packets to be captured", || self.count("Received") >= self.sent);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn address(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("52:54:00:00:{high:02x}:{low:02x}")
}

/// A frame with a magic packet for the address, with a password and a numbered sender.
fn frame(mac: &str, password: &[u8], sender: u32) -> Vec<u8> {
    let [a, b, c, d] = sender.to_be_bytes();
    ethernet(BROADCAST, [2, 0, a, b, c, d], WAKE_ON_LAN, &magic(mac, password))
}

#[test]
fn a_flood_on_another_interface_does_not_suppress_valid_packets() {
    privileged!();
    let host = Host::new();
    let (lan, guest) = (host.veth("lan0"), host.veth("guest0"));
    let mac = address(1);
    let mut scene = Scene::new(&host, "", std::slice::from_ref(&mac));
    let mut wire = lan.injector();
    for round in 0..20_u32 {
        // More packets than the budget of one interface allows, each with a different wrong password.
        let wrong = |n: u32| (round * 1000 + n).to_be_bytes();
        let frames: Vec<_> = (0..25).map(|n| frame(&mac, &wrong(n), n)).collect();
        scene.burst(&guest, &frames);
        let datagrams: Vec<_> = (25..50).map(|n| magic(&mac, &wrong(n))).collect();
        scene.loopback_burst(&datagrams);
        let correct = format!("good{round:02}");
        wire.send(&frame(&mac, correct.as_bytes(), 1));
        let signal = scene.monitor.log().wait_for_nth("'lan0'", round as usize + 1);
        let (_, sequence) = signal.split_once("(uint64 ").unwrap();
        let (sequence, _) = sequence.split_once(',').unwrap();
        let arguments = [&*scene.epoch(), sequence];
        let password = host.call(User::WakevirtMember, CAPTURE_NAME, "GetSecureOn", &arguments).unwrap();
        let expected: Vec<String> = correct.bytes().map(|byte| format!("0x{byte:02x}")).collect();
        assert_eq!(password, format!("([byte {}],)", expected.join(", ")));
        // The valid sender's own budget is ten packets per second.
        std::thread::sleep(Duration::from_millis(100));
    }
    let limited = scene.count("Limited");
    assert!(limited >= 200, "only {limited} of 1,000 packets were limited: not a flood");
    for flooded in ["'guest0'", "'lo'"] {
        assert!(scene.monitor.log().count(flooded) > 0, "nothing was announced on {flooded}");
    }
    scene.capture.stop();
}

#[test]
fn a_flood_for_other_domains_does_not_suppress_single_packets() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let addresses: Vec<String> = (0..1000).map(address).collect();
    let mut scene = Scene::new(&host, "", &addresses);
    let start = Instant::now();
    for round in 0..20_u16 {
        // The flood is for a tenth of the addresses. Each valid packet is sent once, in the middle.
        let flood = |n: u16| frame(&address((round * FLOOD + n) % 100), &[], u32::from(round * FLOOD + n));
        let mut frames: Vec<_> = (0..FLOOD).map(flood).collect();
        frames.insert(usize::from(FLOOD / 2), frame(&address(900 + round), &[], 1));
        scene.burst(&lan, &frames);
        scene.wait_until_captured();
    }
    for round in 0..20 {
        let _ = scene.monitor.log().wait_for(&format!("'{}'", address(900 + round)));
    }
    let (limited, announced) = (scene.count("Limited"), scene.count("Sequence"));
    assert_eq!(limited + announced, scene.sent);
    let line = scene.capture.log().wait_for("too many packets on \"lan0\"");
    assert!(line.contains("WARN"), "{line}");
    // Capture logs at most one line a minute.
    assert!(scene.capture.log().count("too many packets") <= 3);
    // Capture announces at most 100 packets per second, in addition to the first one for each address in ten seconds.
    let seconds = start.elapsed().as_secs() + 1;
    assert!(announced <= 20 + 100 * (1 + seconds / 10) + 100 * (1 + seconds), "{announced} in {seconds} s");
    scene.capture.stop();
}

#[test]
fn a_flood_while_the_bus_is_down_does_not_displace_packets_from_another_interface() {
    privileged!();
    let host = Host::new();
    let (lan, guest) = (host.veth("lan0"), host.veth("guest0"));
    let addresses: Vec<String> = (0..300).map(address).collect();
    let mut scene = Scene::new(&host, "", &addresses);
    scene.bus.kill();
    let _ = scene.capture.log().wait_for("connection to the system bus lost");
    lan.send(&frame(&address(7), b"before", 1));
    for round in 0..10_u16 {
        let flood = |n: u16| frame(&address((round * BURST + n) % 300), &[], u32::from(round * BURST + n));
        scene.burst(&guest, &(0..BURST).map(flood).collect::<Vec<_>>());
    }
    lan.send(&frame(&address(7), b"after!", 1));
    scene.sent += 2;
    scene.bus.start_again();
    host.wait_for_name(CAPTURE_NAME);
    scene.wait_until_captured();
    // The flood overflowed the ring of packets, but did not displace the packets from the other interface.
    assert!(scene.count("Sequence") > 256);
    let replay = scene.replay();
    assert_eq!(replay.matches("'lan0'").count(), 2, "{replay}");
    scene.capture.stop();
}

#[test]
fn a_flood_on_an_excluded_interface_uses_no_budget() {
    privileged!();
    // With a name, a socket is bound to the interface. With a glob, the sniffer drops the packets.
    for interfaces in ["lan0", "lan*"] {
        let host = Host::new();
        let (lan, guest) = (host.veth("lan0"), host.veth("guest0"));
        let mut scene = Scene::new(&host, &format!("interfaces = [\"{interfaces}\"]\nlimit = 5"), &[]);
        for round in 0..3 {
            let flood = |n: u16| frame(&address(n), &[], u32::from(n));
            scene.burst(&guest, &(round * BURST..(round + 1) * BURST).map(flood).collect::<Vec<_>>());
        }
        let valid: Vec<_> = (1000..1005).map(|n| frame(&address(n), &[], 1)).collect();
        scene.burst(&lan, &valid);
        let _ = scene.monitor.log().wait_for_nth("'lan0'", valid.len());
        assert_eq!((scene.count("Received"), scene.count("Limited")), (5, 0));
        scene.capture.stop();
    }
}

/// Starts the actor with this rule.
fn actor(host: &Host, rule: &str) -> Daemon {
    let config = format!("connections = [\"{TEST}\"]\n[[allow]]\n{rule}\n");
    Daemon::actor(host).started_by(StartedBy::Manager).config(&config).start_connected()
}

#[test]
fn a_flood_for_denied_domains_does_not_prevent_wakes() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let libvirtd = Libvirtd::start(&host);
    let denied = (0..30).map(|n| test_domain(&format!("denied{n}"), &address(n)));
    let good = (0..10).map(|n| test_domain(&format!("good{n}"), &address(1000 + n)));
    define_all(&host, TEST, denied.chain(good));
    let mut scene = Scene::new(&host, "", &[]);
    let mut actor = actor(&host, "domain = \"good*\"");
    // Until then, capture limits packets for all addresses together.
    wait_for_interest(&scene.capture, &lan, &address(0));
    for n in 0..10_u16 {
        let flood = |i: u16| frame(&address(i % 30), &[], u32::from(n * FLOOD + i));
        let mut frames: Vec<_> = (0..FLOOD).map(flood).collect();
        frames.insert(usize::from(FLOOD / 2), frame(&address(1000 + n), &[], 1));
        scene.burst(&lan, &frames);
        libvirtd.wait_for_state(TEST, &format!("good{n}"), "running");
    }
    assert!(scene.count("Limited") > 0, "no packet was limited: not a flood");
    for n in 0..30 {
        assert_eq!(libvirtd.state(TEST, &format!("denied{n}")), "shut off");
    }
    actor.stop();
    scene.capture.stop();
}

/// Sends packets for the address until capture logs one: it logs only packets of interest.
fn wait_for_interest(capture: &Daemon, lan: &Peer<'_>, mac: &str) {
    let mut wire = lan.injector();
    let mut senders = 1..;
    wait::until_true("capture to have the actor's interest", || {
        wire.send(&frame(mac, &[], senders.next().unwrap()));
        capture.log().count("magic packet for") > 0
    });
}

#[test]
fn actor_reports_its_interest_again_when_there_is_room() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let libvirtd = Libvirtd::start(&host);
    libvirtd.define(TEST, &test_domain("vm", &address(1)));
    let mut scene = Scene::new(&host, "", &[]);
    // Another client fills the table of interests, and stays connected.
    let macs: Vec<Vec<u8>> = (0..100_000_u32).map(|n| [&[2, 0][..], &n.to_be_bytes()].concat()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let connection = scene.bus.connect().await;
        let object = "/org/wakevirt/Capture1";
        let reply =
            connection.call_method(Some(CAPTURE_NAME), object, Some(CAPTURE_NAME), "SetInterest", &macs);
        reply.await.unwrap();
        connection
    });
    let mut actor = actor(&host, "domain = \"vm\"");
    let _ = actor.log().wait_for("cannot report the");
    runtime.block_on(client.close()).unwrap();
    wait_for_interest(&scene.capture, &lan, &address(1));
    actor.stop();
    scene.capture.stop();
}

/// A new announcer refuses a long call that follows another one while it looks up the actor's user.
#[test]
fn actor_reports_hundreds_of_addresses_to_a_new_announcer() {
    const DOMAINS: u16 = 600;
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let _libvirtd = Libvirtd::start(&host);
    define_all(&host, TEST, (0..DOMAINS).map(|n| test_domain(&format!("vm{n}"), &address(n))));
    let mut scene = Scene::new(&host, "", &[]);
    let mut actor = actor(&host, "domain = \"vm*\"");
    for restart in 0..=5 {
        if restart > 0 {
            scene.capture.stop();
            scene.capture = Daemon::capture(&host).started_by(StartedBy::Manager).start_on_bus();
        }
        wait_for_interest(&scene.capture, &lan, &address(DOMAINS - 1));
    }
    assert_eq!(actor.log().count("cannot report the"), 0);
    actor.stop();
    scene.capture.stop();
}
