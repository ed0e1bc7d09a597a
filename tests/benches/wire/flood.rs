//! The cost of a flood for capture.

use std::net::Ipv4Addr;
use std::time::Duration;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, udp4};
use wakevirt_tests::process::proc::cpu_time;

use crate::bus::{CaptureClient, Counters, wait_for_report};
use crate::packets::PacketSocket;
use crate::report::Report;

/// The rate of a limited flood, in frames per second.
const PACE: f64 = 100_000.0;

/// One kind of flood.
struct Flood {
    name: &'static str,
    frames: Vec<Vec<u8>>,
    count: usize,
    /// Whether the kernel's filter passes the frames to the sniffer.
    passes: bool,
    /// The maximum number of frames per second. `None` means as fast as possible.
    pace: Option<f64>,
}

/// Measures capture with its default configuration.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let mut capture = Daemon::capture(&host).start_on_bus();
    let (announcer, sniffer) = (capture.pid(), capture.child("wakevirt-sniffer"));
    let client = CaptureClient::open(&bus);
    let wire = PacketSocket::sender(&lan.network(), FAR_END);

    // The baseline: another host, with only a socket that has no filter.
    let plain = Host::new();
    let plain_lan = plain.veth("lan0");
    let plain_wire = PacketSocket::sender(&plain_lan.network(), FAR_END);

    for flood in floods() {
        let reading = PacketSocket::reader(&plain.network(), "lan0").read(|_, _| ());
        let _ = plain_wire.flood(&flood.frames, flood.count, flood.pace);
        let (plain_read, plain_time) = reading.stop();

        let before = client.counters();
        let times = [cpu_time(sniffer), cpu_time(announcer)];
        let time = wire.flood(&flood.frames, flood.count, flood.pace);
        wait_for_report();
        let times = [cpu_time(sniffer) - times[0], cpu_time(announcer) - times[1]];
        let after = client.counters();

        // Lost frames cost no CPU time, so the measured time means little if many frames are lost.
        if !flood.passes || flood.pace.is_some() {
            report_time(report, &flood, times, plain_time);
        }
        if flood.passes {
            report_loss(report, &flood, before, after, plain_read);
        }
        let rate = flood.count as f64 / time.as_secs_f64();
        report.add(&format!("{}: sent", flood.name), "k/s", rate / 1e3, &[]);
    }
    capture.stop();
}

/// Reports the CPU time of the sniffer and the announcer, with that of a plain socket as the baseline.
fn report_time(report: &mut Report, flood: &Flood, [sniffer, announcer]: [Duration; 2], plain: Duration) {
    let per_million = |time: Duration| time.as_secs_f64() / flood.count as f64 * 1e6;
    let baselines = [("a plain socket that reads all frames", per_million(plain))];
    report.add(&format!("{}: sniffer", flood.name), "s", per_million(sniffer), &baselines);
    report.add(&format!("{}: announcer", flood.name), "s", per_million(announcer), &baselines);
}

/// Reports the lost packets, with those that a plain socket lost as the baseline.
fn report_loss(report: &mut Report, flood: &Flood, before: Counters, after: Counters, plain_read: u64) {
    let percent = |frames: f64| frames / flood.count as f64 * 100.0;
    let lost = percent((after.kernel_dropped - before.kernel_dropped) as f64);
    let plain_lost = percent((flood.count as f64 - plain_read as f64).max(0.0));
    let name = format!("{}: lost before the sniffer", flood.name);
    report.add(&name, "%", lost, &[("a plain socket", plain_lost)]);
    let lost = percent((after.channel_dropped - before.channel_dropped) as f64);
    report.add(&format!("{}: lost after the sniffer", flood.name), "%", lost, &[]);
}

fn floods() -> Vec<Flood> {
    let (source, destination) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3));
    let to_all = |ethertype, payload: &[u8]| ethernet(BROADCAST, [2, 0, 0, 0, 0, 7], ethertype, payload);
    // These frames are for another machine, like forwarded frames.
    let to_other = |payload: &[u8]| ethernet([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 7], 0x0800, payload);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);

    let udp = udp4(source, destination, 5004, &[7; 200]);
    let mut tcp = udp4(source, destination, 443, &[0; 22]);
    // The filter reads only the protocol number. Nothing replies to these packets.
    tcp.splice(9..10, [6]);
    let port_9: Vec<_> = (0..1000)
        .map(|_| to_all(0x0800, &udp4(source, Ipv4Addr::BROADCAST, 9, &random.bytes(102))))
        .collect();
    let magic: Vec<_> = (0..200_000)
        .map(|_| {
            let mac = [&[0x52, 0x54, 0][..], &random.bytes(3)].concat();
            to_all(WAKE_ON_LAN, &[&[0xff; 6][..], &mac.repeat(16)].concat())
        })
        .collect();
    let junk = |name, frame| Flood { name, frames: vec![frame], count: 1_000_000, passes: false, pace: None };
    let read = |name, frames, pace| Flood { name, frames, count: 200_000, passes: true, pace };
    vec![
        junk("UDP", to_other(&udp)),
        junk("TCP", to_other(&tcp)),
        read("junk to port 9", port_9, Some(PACE)),
        read("magic packets", magic.clone(), Some(PACE)),
        read("magic packets, unpaced", magic, None),
    ]
}

/// Marsaglia's xorshift, so that the frames are the same in every run.
struct Random(u64);

impl Random {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.byte()).take(length).collect()
    }

    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_be_bytes()[0]
    }
}
