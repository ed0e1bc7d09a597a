//! What a host that forwards pays.

use std::net::Ipv4Addr;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::frames::{BROADCAST, ethernet, udp4};
use wakevirt_tests::network::{FAR_END, Peer};
use wakevirt_tests::process::Process;

use crate::packets::PacketSocket;
use crate::report::{Report, median};

/// So often, in turn: with nothing, with capture, with tcpdump.
const ROUNDS: usize = 9;
/// About a second's worth.
const FRAMES: usize = 1_000_000;

const MACHINES: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// Measures it on a bridge with two ports.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let (near, far) = (host.veth("port0"), host.veth("port1"));
    host.bridge("br0");
    host.sh("ip link set port0 master br0; ip link set port1 master br0");
    // Where netfilter looks into bridges it costs more than what is measured here.
    host.sh("! cd /proc/sys/net/bridge || echo 0 > bridge-nf-call-iptables");
    let wire = PacketSocket::sender(&near.network(), FAR_END);
    let [sender, receiver] = MACHINES;
    let packet = udp4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), 5004, &[7; 22]);
    let frame = [ethernet(receiver, sender, 0x0800, &packet)];
    // The bridge learns where the other machine is.
    far.send(&ethernet(BROADCAST, receiver, 0x0800, &packet));

    let (mut nothing, mut with_capture, mut with_tcpdump) = (vec![], vec![], vec![]);
    let _ = rate(&wire, &frame, &far);
    for _ in 0..ROUNDS {
        nothing.push(rate(&wire, &frame, &far));

        let mut capture = Daemon::capture(&host).start_on_bus();
        with_capture.push(rate(&wire, &frame, &far));
        capture.stop();

        let mut tcpdump = host.command("tcpdump");
        tcpdump.args(["--immediate-mode", "-n", "-i", "any", "-w", "/dev/null", "ether proto 0x0842"]);
        let mut tcpdump = Process::start("tcpdump", &mut tcpdump);
        let _ = tcpdump.log().wait_for("listening on");
        with_tcpdump.push(rate(&wire, &frame, &far));
        tcpdump.kill();
    }
    let [nothing, with_capture, with_tcpdump] =
        [nothing, with_capture, with_tcpdump].map(|rates| median(&rates) / 1e3);
    report.add("with capture", "k/s", with_capture, &[("with nothing", nothing)]);
    report.add("with tcpdump, which drops all", "k/s", with_tcpdump, &[("with nothing", nothing)]);
    let added = |with: f64| 1e6 / with - 1e6 / nothing;
    let baselines = [("added by tcpdump", added(with_tcpdump)), ("the whole way of a frame", 1e6 / nothing)];
    report.add("added to the way of a frame by capture", "ns", added(with_capture), &baselines);
}

/// Frames per second that came out of the other port.
fn rate(wire: &PacketSocket, frame: &[Vec<u8>], far: &Peer<'_>) -> f64 {
    let before = received(far);
    let took = wire.flood(frame, FRAMES, None);
    (received(far) - before) / took.as_secs_f64()
}

fn received(machine: &Peer<'_>) -> f64 {
    let count = machine.sh(&format!("cat /sys/class/net/{FAR_END}/statistics/rx_packets"));
    count.trim().parse().expect("a number of packets")
}
