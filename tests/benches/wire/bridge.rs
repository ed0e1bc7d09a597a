//! The cost of capture for a host that forwards frames.

use std::net::Ipv4Addr;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::frames::{BROADCAST, ethernet, udp4};
use wakevirt_tests::network::{FAR_END, Peer};
use wakevirt_tests::process::Process;

use crate::packets::PacketSocket;
use crate::report::{Aim, Report, median};

/// The number of measurements of each kind: without a receiver, with two configurations of capture, and with tcpdump.
const ROUNDS: usize = 9;
/// The number of frames in a measurement, which takes about a second.
const FRAMES: usize = 1_000_000;

const MACHINES: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// Measures a bridge with two ports.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let (near, far) = (host.veth("port0"), host.veth("port1"));
    host.bridge("br0");
    host.sh("ip link set port0 master br0; ip link set port1 master br0");
    // Netfilter on bridges would cost more than capture.
    host.sh("! cd /proc/sys/net/bridge || echo 0 > bridge-nf-call-iptables");
    let wire = PacketSocket::sender(&near.network(), FAR_END);
    let [sender, receiver] = MACHINES;
    let packet = udp4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), 5004, &[7; 22]);
    let frame = [ethernet(receiver, sender, 0x0800, &packet)];
    // The bridge learns the port of the other machine.
    far.send(&ethernet(BROADCAST, receiver, 0x0800, &packet));

    // Capture on another interface, whose traffic it receives alone.
    let _other = host.veth("lan0");
    let elsewhere = "interfaces = [\"lan0\"]\n";

    let (mut without, mut with_capture, mut with_bound, mut with_tcpdump) = (vec![], vec![], vec![], vec![]);
    let _ = rate(&wire, &frame, &far);
    for _ in 0..ROUNDS {
        without.push(rate(&wire, &frame, &far));
        for (config, rates) in [("", &mut with_capture), (elsewhere, &mut with_bound)] {
            let mut capture = Daemon::capture(&host).config(config).start_on_bus();
            rates.push(rate(&wire, &frame, &far));
            capture.stop();
        }

        let mut tcpdump = host.command("tcpdump");
        tcpdump.args(["--immediate-mode", "-n", "-i", "any", "-w", "/dev/null", "ether proto 0x0842"]);
        let mut tcpdump = Process::start("tcpdump", &mut tcpdump);
        let _ = tcpdump.log().wait_for("listening on");
        with_tcpdump.push(rate(&wire, &frame, &far));
        tcpdump.kill();
    }
    let [without, with_capture, with_bound, with_tcpdump] =
        [without, with_capture, with_bound, with_tcpdump].map(|rates| median(&rates) / 1e3);
    report.add("with capture", "k/s", with_capture, &[("without", without)]);
    let name = "with capture on one other interface";
    report.aim(name, "k/s", with_bound, &[("without", without)], Aim::RatioAtLeast(0.97));
    report.add("with tcpdump, which drops all frames", "k/s", with_tcpdump, &[("without", without)]);
    let added = |with: f64| 1e6 / with - 1e6 / without;
    let baselines = [("added by tcpdump", added(with_tcpdump)), ("time to forward a frame", 1e6 / without)];
    report.add("added to each frame by capture", "ns", added(with_capture), &baselines);
}

/// The number of forwarded frames per second.
fn rate(wire: &PacketSocket, frame: &[Vec<u8>], far: &Peer<'_>) -> f64 {
    let before = received(far);
    let time = wire.flood(frame, FRAMES, None);
    (received(far) - before) / time.as_secs_f64()
}

fn received(machine: &Peer<'_>) -> f64 {
    let count = machine.sh(&format!("cat /sys/class/net/{FAR_END}/statistics/rx_packets"));
    count.trim().parse().expect("a number of packets")
}
