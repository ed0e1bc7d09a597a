//! The time from the packet to the signal.

use std::time::{Duration, Instant};

use wakevirt_protocol::bus::{CAPTURE_INTERFACE, MAGIC_PACKET};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::process::proc::cpu_time;

use crate::bus::{LoneSignal, Subscriber};
use crate::packets::PacketSocket;
use crate::report::{Aim, Report, median, quantile, spread};

/// The number of timed packets of each kind.
const PACKETS: usize = 400;
/// The number of packets that are sent first and are not timed.
const WARM_UP: usize = 20;
/// The pause before each packet, during which all processes become idle.
const PAUSE: Duration = Duration::from_millis(2);

/// Measures both implementations of the bus.
pub fn measure(report: &mut Report) {
    measure_through(report, "dbus-daemon", Kind::DbusDaemon);
    measure_through(report, "dbus-broker", Kind::DbusBroker);
}

fn measure_through(report: &mut Report, name: &str, kind: Kind) {
    let host = Host::new();
    let bus = Bus::start(&host, kind);
    let (lan, plain) = (host.veth("lan0"), host.veth("plain0"));
    let mut capture = Daemon::capture(&host).config("limit = 100000\ninterfaces = [\"lan0\"]").start_on_bus();

    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let plain_wire = PacketSocket::sender(&plain.network(), FAR_END);
    let frame = |number: usize| {
        let mac = format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 0xff);
        ethernet(BROADCAST, [2, 0, 0, 0, 0, 7], WAKE_ON_LAN, &magic(&mac, &[]))
    };
    let (reading, arrivals) = PacketSocket::reader(&host.network(), "plain0").arrivals(vec![0xff; 6]);
    let mut subscriber = Subscriber::new(&bus, CAPTURE_INTERFACE, MAGIC_PACKET);
    let mut signal = LoneSignal::new(&bus);
    let services = [("sniffer", capture.child("wakevirt-sniffer")), ("announcer", capture.pid())];
    let before = services.map(|(_, pid)| cpu_time(pid));

    let (mut total, mut signal_alone, mut packet_alone, mut hops) = (vec![], vec![], vec![], vec![]);
    for number in 0..WARM_UP + PACKETS {
        let frame = frame(number);
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        wire.send(&frame);
        let _ = subscriber.next();
        total.push(start.elapsed());

        std::thread::sleep(PAUSE);
        signal_alone.push(signal.measure());

        std::thread::sleep(PAUSE);
        let start = Instant::now();
        plain_wire.send(&frame);
        packet_alone.push(arrivals.recv().expect("the reader is running") - start);

        // A thread reads the packet and wakes this one, which sends the signal.
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        plain_wire.send(&frame);
        let _ = arrivals.recv().expect("the reader is running");
        let _ = signal.measure();
        hops.push(start.elapsed());
    }
    let _ = reading.stop();
    let after = services.map(|(_, pid)| cpu_time(pid));
    capture.stop();

    add(report, name, [total, signal_alone, packet_alone, hops].map(in_microseconds));
    for (((service, _), before), after) in services.into_iter().zip(before).zip(after) {
        let time = (after - before).as_secs_f64() * 1e6 / (WARM_UP + PACKETS) as f64;
        report.add(&format!("{name}, CPU time of the {service} for each packet"), "µs", time, &[]);
    }
}

/// Adds the times of packets through capture, of lone signals, of packets alone, and of the same hops without work.
fn add(report: &mut Report, name: &str, [total, signal, packet, hops]: [Vec<f64>; 4]) {
    let baselines = [
        ("a lone signal", median(&signal)),
        ("a packet to a plain socket alone", median(&packet)),
        ("both medians added", median(&signal) + median(&packet)),
        ("the same hops without work", median(&hops)),
    ];
    report.aim(&format!("{name}, median"), "µs", median(&total), &baselines, Aim::RatioAtMost(1.7));
    let baselines = [
        ("a lone signal", quantile(&signal, 0.99)),
        ("a packet to a plain socket alone", quantile(&packet, 0.99)),
    ];
    report.add(&format!("{name}, 99th percentile"), "µs", quantile(&total, 0.99), &baselines);
    let baselines =
        [("a lone signal", spread(&signal)), ("a packet to a plain socket alone", spread(&packet))];
    let name = format!("{name}, 99th percentile / median");
    report.aim(&name, "", spread(&total), &baselines, Aim::RatioAtMost(1.5));
}

fn in_microseconds(times: Vec<Duration>) -> Vec<f64> {
    times.iter().skip(WARM_UP).map(|time| time.as_secs_f64() * 1e6).collect()
}
