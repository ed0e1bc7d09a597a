//! The time from the packet to the start of the domain.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use wakevirt_protocol::bus::ACTOR_INTERFACE;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST};
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::process::proc::cpu_time;

use crate::bus::{ActorClient, LoneSignal, Subscriber};
use crate::domains::{BRIDGE, Client, mac};
use crate::packets::PacketSocket;
use crate::process::{report_memory, ring_memory};
use crate::report::{Aim, Report, median, quantile, spread};
use crate::tool::Tool;

/// The maximum number of timed wakes. The kinds alternate.
const WAKES: u16 = 300;
/// The number of wakes for each wake by the tool, which is slow.
const TOOL: u16 = 30;
/// The time after which no more wakes are measured. QEMU takes long for each.
const TIME_LIMIT: Duration = Duration::from_secs(60);
const QEMU_TIME_LIMIT: Duration = Duration::from_secs(20);
/// The time after which no more domains are defined.
const DEFINITION_TIME_LIMIT: Duration = Duration::from_secs(30);
/// The pause before each measurement, during which all processes become idle and libvirt's events are handled.
const PAUSE: Duration = Duration::from_millis(25);
/// The number of definitions whose detection is timed.
const DEFINITIONS: usize = 10;
/// The time after which a definition counts as not detected.
const DETECTION_TIME_LIMIT: Duration = Duration::from_secs(10);
/// The aim for the 99th percentile divided by the median: that of a lone signal, times this.
const SPREAD: f64 = 1.5;

/// The services, in the order of [`WakeTimes::cpu`].
const SERVICES: [&str; 3] = ["sniffer", "announcer", "actor"];

/// Measures with few and many domains of libvirt's test driver, which boots nothing, and with a few QEMU domains.
pub fn measure(report: &mut Report) {
    let few = measure_among(report, TEST, 10);
    let _ = measure_among(report, TEST, 1000);
    let many = measure_among(report, TEST, 10_000);
    let baselines = [("with 10 domains", few)];
    report.aim("added with 10,000 domains", "ms", many, &baselines, Aim::RatioAtMost(1.2));
    let _ = measure_among(report, QEMU, 10);
}

/// Measures with this number of domains, and returns the time in ms that wakevirt adds to libvirt's start.
fn measure_among(report: &mut Report, connection: &'static str, domains: usize) -> f64 {
    let host = Host::new();
    host.bridge(BRIDGE);
    let _libvirtd = Libvirtd::start(&host);
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let (lan, other) = (host.veth("lan0"), host.veth("tool0"));
    let client = Client::open(&host, connection);
    let domains = define(&client, domains);
    let mut capture = Daemon::capture(&host).config("limit = 100000\ninterfaces = [\"lan0\"]").start_on_bus();
    let mut config = format!("connections = [\"{connection}\"]\ncool-down = \"0s\"\n");
    config += "[[allow]]\ndomain = \"wakevirt-*\"\n";
    let mut actor = Daemon::actor(&host).config(&config).start_connected();

    let tool_wire = PacketSocket::sender(&other.network(), FAR_END);
    let tool = Tool::start(PacketSocket::reader(&host.network(), "tool0"), tool_wire, client.connection());
    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let sniffer = capture.child("wakevirt-sniffer");
    let mut bench = Bench {
        client,
        services: [sniffer, capture.pid(), actor.pid()],
        signal: LoneSignal::new(&bus),
        finished: Subscriber::new(&bus, ACTOR_INTERFACE, "WakeFinished"),
        wire,
        tool,
    };
    let limit = if connection == QEMU { QEMU_TIME_LIMIT } else { TIME_LIMIT };
    let times = bench.measure(domains / 2, limit);

    let what = format!("{domains} {}", if connection == QEMU { "QEMU domains" } else { "domains" });
    let added = report_times(report, &what, connection, times);
    let processes = [
        ("sniffer", sniffer, Some(2.0)),
        ("announcer", capture.pid(), None),
        ("actor", actor.pid(), Some(16.0)),
    ];
    report_memory(report, &what, &processes);
    report.add(&format!("ring of the sniffer, {what}"), "MiB", ring_memory(sniffer), &[]);
    if connection == TEST {
        report_detection(report, &what, &bench.client, &ActorClient::open(&bus), domains);
    }
    bench.tool.stop();
    actor.stop();
    capture.stop();
    added
}

/// The times of each kind of wake, and of a lone signal, in seconds.
#[derive(Default)]
struct WakeTimes {
    /// The time from the packet to the signal that wakevirt started the domain.
    wakevirt: Vec<f64>,
    /// The time from the packet to the end of the other tool's call.
    tool: Vec<f64>,
    /// The time of libvirt's call alone.
    libvirt: Vec<f64>,
    signal: Vec<f64>,
    /// The CPU time of each service for a wake by wakevirt, until that signal.
    cpu: [Vec<f64>; 3],
}

/// The connections and interfaces of a measurement.
struct Bench {
    client: Client,
    services: [Pid; 3],
    signal: LoneSignal,
    finished: Subscriber,
    wire: PacketSocket,
    tool: Tool,
}

impl Bench {
    /// Measures wakes: wakevirt wakes one half of the domains, and the tool the other half. `half` is the size of each
    /// half. No wake begins after `limit`.
    fn measure(&mut self, half: usize, limit: Duration) -> WakeTimes {
        let mut times = WakeTimes::default();
        let start = Instant::now();
        for wake in (0..WAKES).take_while(|_| start.elapsed() < limit) {
            // Each packet has a different sender, so that it is not a copy of the previous one.
            let [high, low] = wake.to_be_bytes();
            let sender = [2, 0, 0, 0, high, low];
            let frame = |mac: &str| ethernet(BROADCAST, sender, WAKE_ON_LAN, &magic(mac, &[]));
            let number = 2 * (usize::from(wake) % half);
            let pause = || std::thread::sleep(PAUSE);

            pause();
            let before = self.services.map(cpu_time);
            pause();
            times.wakevirt.push(self.wake(&frame(&mac(number)), number).as_secs_f64());
            for ((times, before), pid) in times.cpu.iter_mut().zip(before).zip(self.services) {
                times.push((cpu_time(pid) - before).as_secs_f64());
            }
            self.client.destroy(&name(number));
            pause();
            times.libvirt.push(self.client.start(&name(number)).as_secs_f64());
            self.client.destroy(&name(number));
            pause();
            times.signal.push(self.signal.measure().as_secs_f64());
            if wake % TOOL == 0 {
                pause();
                times.tool.push(self.tool.wake(&frame(&mac(number + 1))).as_secs_f64());
                self.client.destroy(&name(number + 1));
            }
        }
        times
    }

    fn wake(&mut self, frame: &[u8], number: usize) -> Duration {
        let start = Instant::now();
        self.wire.send(frame);
        let (outcome, details) = self.finished.wait_for_wake(&mac(number));
        let time = start.elapsed();
        assert_eq!(outcome, "started", "{details:?}");
        time
    }
}

/// Reports the times, and returns the time in ms that wakevirt adds to libvirt's start.
fn report_times(report: &mut Report, what: &str, connection: &str, times: WakeTimes) -> f64 {
    let cpu = times.cpu.map(in_milliseconds);
    let added: Vec<f64> =
        times.wakevirt.iter().zip(&times.libvirt).map(|(all, libvirt)| all - libvirt).collect();
    let [wakevirt, tool, libvirt, signal, added] =
        [times.wakevirt, times.tool, times.libvirt, times.signal, added].map(in_milliseconds);
    let baselines =
        [("a tool that searches all domains", median(&tool)), ("libvirt's start alone", median(&libvirt))];
    report.add(&format!("{what}, median of {}", wakevirt.len()), "ms", median(&wakevirt), &baselines);
    let baselines =
        [("a lone signal", quantile(&signal, 0.99)), ("libvirt's start alone", quantile(&libvirt, 0.99))];
    report.add(&format!("{what}, 99th percentile"), "ms", quantile(&wakevirt, 0.99), &baselines);
    let name = format!("{what}, added to libvirt's start");
    let baselines = [("a lone signal", median(&signal))];
    if connection == QEMU {
        // Two starts of QEMU differ by more than this.
        report.add(&name, "ms", median(&added), &baselines);
    } else {
        report.aim(&name, "ms", median(&added), &baselines, Aim::RatioAtMost(3.0));
        let baselines = [("a lone signal", spread(&signal)), ("libvirt's start alone", spread(&libvirt))];
        let name = format!("{what}, 99th percentile / median");
        report.aim(&name, "", spread(&wakevirt), &baselines, Aim::RatioAtMost(SPREAD));
    }
    for (service, times) in SERVICES.into_iter().zip(cpu) {
        report.add(&format!("CPU time of the {service} for a wake, {what}"), "ms", median(&times), &[]);
    }
    median(&added)
}

/// Reports how long the actor takes to detect a new definition among the domains.
fn report_detection(report: &mut Report, what: &str, client: &Client, actor: &ActorClient, domains: usize) {
    let detect = |number: usize| {
        client.define(&name(number), &mac(number));
        let start = Instant::now();
        while !actor.would_wake(&mac(number)) && start.elapsed() < DETECTION_TIME_LIMIT {}
        start.elapsed().as_secs_f64()
    };
    // Even numbers: see `name`.
    let times = in_milliseconds((0..DEFINITIONS).map(|number| detect(domains + 2 * number)).collect());
    let slowest = quantile(&times, 1.0);
    report.add(&format!("{what}: one more is detected, median"), "ms", median(&times), &[]);
    report.aim(&format!("{what}: one more is detected, slowest"), "ms", slowest, &[], Aim::AtMost(50.0));
}

/// Defines `domains` domains, or fewer if that takes too long: half of them for wakevirt, half for the tool. Returns
/// their number.
fn define(client: &Client, domains: usize) -> usize {
    let start = Instant::now();
    let mut defined = 0;
    while defined < domains && start.elapsed() < DEFINITION_TIME_LIMIT {
        for number in [defined, defined + 1] {
            client.define(&name(number), &mac(number));
        }
        defined += 2;
    }
    defined
}

fn name(number: usize) -> String {
    let prefix = if number.is_multiple_of(2) { "wakevirt" } else { "tool" };
    format!("{prefix}-{number}")
}

fn in_milliseconds(times: Vec<f64>) -> Vec<f64> {
    times.iter().map(|time| time * 1e3).collect()
}
