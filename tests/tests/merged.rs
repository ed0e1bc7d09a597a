//! Datagrams that the kernel merges into one before capture receives them, through UDP GRO on the interface, or UDP GSO
//! by a sender behind a veth pair. Capture announces all magic packets.
#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::guard;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

/// A host with capture, a veth pair to a sender, and a subscriber to capture's signals.
struct Scene<'host> {
    host: &'host Host,
    lan: Peer<'host>,
    _bus: Bus<'host>,
    capture: Daemon,
    monitor: Process,
}

impl<'host> Scene<'host> {
    fn new(host: &'host Host) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let lan = host.veth("lan0");
        lan.address("192.0.2.2/24 broadcast 192.0.2.255");
        let capture = Daemon::capture(host).config("limit = 100000").start_on_bus();
        let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
        Self { host, lan, _bus: bus, capture, monitor }
    }

    /// The value of a counter property.
    fn count(&self, property: &str) -> u64 {
        self.host.counter(CAPTURE_NAME, property)
    }

    fn wait_for(&self, property: &str, count: u64) {
        wait::until_true(&format!("{property} to be {count}"), || self.count(property) == count);
    }

    /// Makes the kernel merge received datagrams with this feature of ethtool(8). Also stops the sender's interface
    /// from segmenting what [`Self::send`] sends, so that the sender's kernel does so: the datagrams leave back to
    /// back, and the receiver gets all of them at once.
    fn merge_by(&self, feature: &str) {
        self.host.sh(&format!("ethtool -K lan0 gro on {feature} on"));
        self.lan.sh("ethtool -K eth0 tx-udp-segmentation off");
    }

    /// Sends these payloads of equal length back to back from one socket with UDP GSO (`UDP_SEGMENT`, udp(7)). A veth
    /// passes them on as one datagram.
    fn send(&self, port: u16, payloads: &[String]) {
        let (length, all) = (payloads[0].len() / 2, payloads.concat());
        self.lan.sh(&format!(
            "python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.IPPROTO_UDP, 103, {length})
s.sendto(bytes.fromhex(\"{all}\"), (\"192.0.2.255\", {port}))'"
        ));
    }
}

/// The target MAC address of packet `number`.
fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// A magic packet in hexadecimal digits.
fn packet(number: u8, password: &str) -> String {
    format!("{}{}{password}", "ff".repeat(6), mac(number).replace(':', "").repeat(16))
}

#[test]
fn announces_each_merged_datagram_without_a_password() {
    privileged!();
    if !guard::has("ethtool") {
        return;
    }
    for method in ["rx-udp-gro-forwarding", "rx-gro-list", "UDP GSO"] {
        let host = Host::new();
        let mut scene = Scene::new(&host);
        if method != "UDP GSO" {
            scene.merge_by(method);
        }
        // To a port on which the whole payload is searched, and to another port.
        let mut announced = 0;
        for (port, password, first) in [(9, "", 1), (40_000, "", 11), (9, "736563726574", 21)] {
            let payloads: Vec<String> = (first..first + 3).map(|number| packet(number, password)).collect();
            scene.send(port, &payloads);
            announced += 3;
            scene.wait_for("Sequence", announced);
            for number in first..first + 3 {
                let signal = scene.monitor.log().wait_for(&mac(number));
                // The last three would have a password if they were not merged.
                assert!(signal.contains("'secureon': <false>"), "{method}, port {port}: {signal}");
            }
        }
        // A single datagram keeps its password, even if all bytes of the password are FF.
        scene.send(9, &[packet(31, "ffffffffffff")]);
        let signal = scene.monitor.log().wait_for(&mac(31));
        assert!(signal.contains("'secureon': <true>"), "{method}: {signal}");
        assert_eq!((scene.count("Malformed"), scene.count("Truncated")), (0, 0), "{method}");
        scene.capture.stop();
    }
}

#[test]
fn counts_merged_datagrams_beyond_the_search_limit() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host);
    let payloads: Vec<String> = (1..=30).map(|number| packet(number, "")).collect();
    scene.send(9, &payloads);
    scene.wait_for("Truncated", 1);
    // With the IP and UDP headers, 19 packets fit into the limit.
    scene.wait_for("Sequence", 19);
    let line = scene
        .capture
        .log()
        .wait_for("payloads with magic packets that were longer than the 2048 bytes that are searched: 1");
    assert!(line.contains("WARN") && line.contains("ethtool -K"), "{line}");
    scene.capture.stop();
}
