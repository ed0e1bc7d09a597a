//! The time from the packet to the start of the domain.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{ACTOR_INTERFACE, Dict};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, qemu_domain, test_domain};
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};

use crate::bus::Subscriber;
use crate::packets::{PacketSocket, Reading};
use crate::process::report_memory;
use crate::report::{Report, median};

/// The maximum number of timed wakes of each kind. The kinds alternate.
const WAKES: u8 = 50;
/// The time after which no more wakes are measured.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// The time after which no more domains are defined.
const DEFINITION_TIME_LIMIT: Duration = Duration::from_secs(30);
/// The pause before each measurement, during which all processes become idle and libvirt's events are handled.
const PAUSE: Duration = Duration::from_millis(50);
/// The bridge of the QEMU domains.
const BRIDGE: &str = "br0";

/// Measures with few and many domains of libvirt's test driver, which boots nothing, and with a few QEMU domains.
pub fn measure(report: &mut Report) {
    for domains in [10, 1000, 10_000] {
        measure_among(report, TEST, domains);
    }
    measure_among(report, QEMU, 10);
}

fn measure_among(report: &mut Report, connection: &str, domains: usize) {
    let host = Host::new();
    host.bridge(BRIDGE);
    let _libvirtd = Libvirtd::start(&host);
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let (lan, other) = (host.veth("lan0"), host.veth("tool0"));
    let libvirt = Connect::open(Some(&local_uri(&host, connection))).expect("a connection to libvirt");
    let domains = define(&libvirt, connection, domains);
    let mut capture = Daemon::capture(&host).config("limit = 100000\ninterfaces = [\"lan0\"]").start_on_bus();
    let mut config = format!("connections = [\"{connection}\"]\ncool-down = \"0s\"\n");
    config += "[[allow]]\ndomain = \"wakevirt-*\"\n";
    let mut actor = Daemon::actor(&host).config(&config).start_connected();

    let (tool, tool_started) = tool(PacketSocket::reader(&host.network(), "tool0"), libvirt.clone());
    let mut bench = Bench {
        libvirt,
        finished: Subscriber::new(&bus, ACTOR_INTERFACE, "WakeFinished"),
        wire: PacketSocket::sender(&lan.network(), FAR_END),
        tool_wire: PacketSocket::sender(&other.network(), FAR_END),
        tool_started,
    };
    let times = bench.measure(domains / 2);
    let _ = tool.stop();

    let what = format!("{domains} {}", if connection == QEMU { "QEMU domains" } else { "domains" });
    report_times(report, &what, times);
    let processes = [
        ("sniffer", capture.child("wakevirt-sniffer")),
        ("announcer", capture.pid()),
        ("actor", actor.pid()),
    ];
    report_memory(report, &what, &processes);
    actor.stop();
    capture.stop();
}

/// The times of each kind of wake.
#[derive(Default)]
struct WakeTimes {
    /// The time from the packet to the signal that wakevirt started the domain.
    wakevirt: Vec<Duration>,
    /// The time from the packet to the end of the other tool's call.
    tool: Vec<Duration>,
    /// The time of libvirt's call alone.
    libvirt: Vec<Duration>,
}

/// The connections and interfaces of a measurement.
struct Bench {
    libvirt: Connect,
    finished: Subscriber,
    wire: PacketSocket,
    tool_wire: PacketSocket,
    tool_started: Receiver<Instant>,
}

impl Bench {
    /// Measures wakes: wakevirt wakes one half of the domains, and the tool the other half. `half` is the size of each
    /// half.
    fn measure(&mut self, half: usize) -> WakeTimes {
        let mut times = WakeTimes::default();
        let start = Instant::now();
        for wake in (0..WAKES).take_while(|_| start.elapsed() < TIME_LIMIT) {
            // Each packet has a different sender, so that it is not a copy of the previous one.
            let sender = [2, 0, 0, 0, 1, wake];
            let frame = |mac: &str| ethernet(BROADCAST, sender, WAKE_ON_LAN, &magic(mac, &[]));
            let number = 2 * (usize::from(wake) % half);
            times.wakevirt.push(self.wake_by_wakevirt(&frame(&mac(number)), number));
            times.tool.push(self.wake_by_tool(&frame(&mac(number + 1)), number + 1));
            times.libvirt.push(self.start_by_libvirt(number));
        }
        times
    }

    fn wake_by_wakevirt(&mut self, frame: &[u8], number: usize) -> Duration {
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        self.wire.send(frame);
        wait_for(&mut self.finished, &mac(number));
        let time = start.elapsed();
        self.destroy(number);
        time
    }

    fn wake_by_tool(&self, frame: &[u8], number: usize) -> Duration {
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        self.tool_wire.send(frame);
        let time = self.tool_started.recv().expect("the tool is running") - start;
        self.destroy(number);
        time
    }

    fn start_by_libvirt(&self, number: usize) -> Duration {
        let domain = find(&self.libvirt, number);
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        // One call, like the actor's. virDomainCreate would make two.
        domain.create_with_flags(0).expect("a domain that starts");
        let time = start.elapsed();
        self.destroy(number);
        time
    }

    fn destroy(&self, number: usize) {
        find(&self.libvirt, number).destroy().expect("a running domain");
    }
}

fn report_times(report: &mut Report, what: &str, times: WakeTimes) {
    let [wakevirt, tool, libvirt] = [times.wakevirt, times.tool, times.libvirt].map(in_milliseconds);
    let baselines =
        [("a tool that reads all domains", median(&tool)), ("libvirt's start alone", median(&libvirt))];
    report.add(&format!("{what}, median"), "ms", median(&wakevirt), &baselines);
    let added: Vec<f64> =
        wakevirt.iter().zip(&libvirt).map(|(wakevirt, libvirt)| wakevirt - libvirt).collect();
    report.add(&format!("{what}, added to libvirt's start"), "ms", median(&added), &[]);
}

/// The URI with which this process reaches the host's libvirtd.
fn local_uri(host: &Host, connection: &str) -> String {
    let path = if connection == QEMU { "qemu+unix:///system" } else { "test+unix:///default" };
    format!("{path}?socket={}", host.path("/run/libvirt/libvirt-sock").display())
}

/// Defines `domains` domains, or fewer if that takes too long: half of them for wakevirt, half for the tool. Returns
/// their number.
fn define(libvirt: &Connect, connection: &str, domains: usize) -> usize {
    let start = Instant::now();
    let mut defined = 0;
    while defined < domains && start.elapsed() < DEFINITION_TIME_LIMIT {
        for number in [defined, defined + 1] {
            let (name, mac) = (name(number), mac(number));
            let xml =
                if connection == QEMU { qemu_domain(&name, &mac, BRIDGE) } else { test_domain(&name, &mac) };
            let _ = libvirt.define_domain_xml(&xml).expect("a domain");
        }
        defined += 2;
    }
    defined
}

/// Waits until the actor has started the domain.
fn wait_for(finished: &mut Subscriber, mac: &str) {
    loop {
        let message = finished.next();
        let body = message.body().deserialize::<(String, String, String, Dict)>();
        let (woken, domain, outcome, details) = body.expect("the body of a WakeFinished");
        if woken == mac {
            assert_eq!(outcome, "started", "{domain}: {details:?}");
            return;
        }
    }
}

/// Runs a tool that works like other implementations of Wake-on-LAN for libvirt: for each packet, it lists all domains, searches the XML of each for the address,
/// and starts the domain that has it.
fn tool(socket: PacketSocket, libvirt: Connect) -> (Reading, Receiver<Instant>) {
    let (sender, started) = channel();
    let reading = socket.read(move |frame, _| {
        let Some(mac) = address_in(frame) else { return };
        let wanted = format!("<mac address='{mac}'/>");
        for domain in libvirt.list_all_domains(0).expect("a list of domains") {
            let xml = domain.xml_desc(0).expect("a domain's XML");
            if xml.contains(&wanted) {
                domain.create().expect("a domain that starts");
                let _ = sender.send(Instant::now());
            }
        }
    });
    (reading, started)
}

/// The target address in a Wake-on-LAN frame.
fn address_in(frame: &[u8]) -> Option<MacAddr> {
    if frame.get(12..14)? != WAKE_ON_LAN.to_be_bytes() {
        return None;
    }
    Some(MacAddr::new(frame.get(20..26)?.try_into().ok()?))
}

fn find(libvirt: &Connect, number: usize) -> Domain {
    libvirt.lookup_domain_by_name(&name(number)).expect("a domain with this name")
}

fn name(number: usize) -> String {
    let prefix = if number.is_multiple_of(2) { "wakevirt" } else { "tool" };
    format!("{prefix}-{number}")
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 0xff)
}

fn in_milliseconds(times: Vec<Duration>) -> Vec<f64> {
    times.iter().map(|time| time.as_secs_f64() * 1e3).collect()
}
