//! The host that is flooded.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{Libvirtd, TEST};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic, udp4};
use wakevirt_tests::network::{FAR_END, Peer};
use wakevirt_tests::process::Process;
use wakevirt_tests::process::proc::cpu_time;

use crate::bus::{CaptureClient, wait_for_report};
use crate::domains::{Client, mac};
use crate::floods::rows::{Capture, DENIED, Row, SECRET, Target, UDP_PORT};
use crate::floods::wakes::{Packet, Results};
use crate::packets::PacketSocket;

/// The interfaces.
const INTERFACES: [&str; 3] = ["lan0", "lan1", "guest0"];
/// The interval between two packets for different domains.
const INTERVAL: Duration = Duration::from_millis(15);
/// The interval between two packets for one domain: capture announces ten in a second.
const INTERVAL_OF_ONE: Duration = Duration::from_millis(150);
/// The number of sets of domains. Each row uses another set, because the first packet for an address in ten seconds
/// does not count against a limit.
const SETS: usize = 3;
/// The pause before each row, during which the actor handles libvirt's events.
const PAUSE: Duration = Duration::from_millis(500);
/// The maximum number of frames in a flood, which ends with its row.
const MAX_FRAMES: u64 = 500_000_000;
/// The number of processes that compete for the CPUs.
const HOGS: usize = 2;
/// The password of the domain with the address [`SECRET`], and its file.
const PASSWORD: [u8; 4] = [1, 2, 3, 4];
const PASSWORD_FILE: &str = "/etc/wakevirt/secret.secureon";

/// The number of wakes in a row.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of domains whose address is not in the flood.
    pub others: usize,
    /// Of the domain whose address is in the flood.
    pub same: usize,
}

/// The results of a row.
pub struct Measured {
    /// The times of the wakes that were done, in ms.
    pub times: Vec<f64>,
    /// The number of packets that should have woken a domain.
    pub wakes: usize,
    /// The CPU time of the sniffer, as a percentage of a core.
    pub sniffer: f64,
    /// The CPU time of the announcer, as a percentage of a core.
    pub announcer: f64,
    /// The number of frames in the flood.
    pub sent: f64,
    /// The number of frames per second in the flood while packets were sent.
    pub rate: f64,
    /// The number of packets that were lost before the announcer received them.
    pub lost: f64,
}

/// The interfaces, libvirtd, the bus and the services of a host.
pub struct Scene<'host> {
    host: &'host Host,
    size: Size,
    peers: [Peer<'host>; 3],
    client: Client,
    capture: Option<Daemon>,
    /// The number of rows so far.
    rows: usize,
    // A connection is closed before the bus exits.
    results: Results,
    _actor: Daemon,
    bus: Bus<'host>,
    _libvirtd: Libvirtd<'host>,
}

impl<'host> Scene<'host> {
    /// Defines the domains, and starts everything except capture.
    pub fn new(host: &'host Host, size: Size) -> Self {
        let libvirtd = Libvirtd::start(host);
        let bus = Bus::start(host, Kind::DbusDaemon);
        let peers = INTERFACES.map(|name| host.veth(name));
        host.sh("ip address add 192.0.2.1/24 dev lan0");
        let client = Client::open(host, TEST);
        for number in 0..SETS * size.others {
            client.define(&name(number), &mac(number));
        }
        client.define("denied", &DENIED.to_string());
        client.define("secret", &SECRET.to_string());
        host.write(PASSWORD_FILE, &PASSWORD.map(|byte| format!("{byte:02x}")).join(":"));
        host.sh(&format!("chown wakevirt-actor {PASSWORD_FILE}; chmod 0400 {PASSWORD_FILE}"));
        let rule = "interfaces = [\"lan0\", \"lan1\"]\n";
        let config = format!(
            "connections = [\"{TEST}\"]\ncool-down = \"0s\"\n[[allow]]\ndomain = \"vm-*\"\n{rule}\
             [[allow]]\ndomain = \"secret\"\nsecure-on = \"{PASSWORD_FILE}\"\n{rule}"
        );
        let actor = Daemon::actor(host).config(&config).start_connected();
        let results = Results::new(&bus);
        Self {
            host,
            size,
            peers,
            client,
            bus,
            results,
            capture: None,
            rows: 0,
            _actor: actor,
            _libvirtd: libvirtd,
        }
    }

    /// Starts capture with this configuration.
    pub fn start_capture(&mut self, capture: Capture) {
        let starter = Daemon::capture(self.host).config(&capture.config());
        let starter =
            if capture == Capture::Udp { starter.started_by(StartedBy::Unprivileged) } else { starter };
        self.capture = Some(starter.start_on_bus());
    }

    pub fn stop_capture(&mut self) {
        if let Some(mut capture) = self.capture.take() {
            capture.stop();
        }
    }

    /// Sends packets without a flood.
    pub fn unflooded(&mut self, capture: Capture, hogs: bool) -> Measured {
        let _hogs = hogs.then(|| self.start_hogs());
        self.measure(capture, "lan0", Target::Others, "lan0")
    }

    /// Sends packets during a flood.
    pub fn flooded(&mut self, row: &Row) -> Measured {
        let before = self.lost();
        let sent = self.received(row.flooded);
        let hogs = row.hogs.then(|| self.start_hogs());
        let mut flood = self.peer(row.flooded).flood(row.kind, MAX_FRAMES, row.rate);
        let mut measured = self.measure(row.capture, row.through, row.target, row.flooded);
        flood.kill();
        drop(hogs);
        wait_for_report();
        measured.sent = self.received(row.flooded) - sent;
        measured.lost = self.lost() - before;
        measured
    }

    fn measure(&mut self, capture: Capture, through: &str, target: Target, flooded: &str) -> Measured {
        let wire = PacketSocket::sender(&self.peer(through).network(), FAR_END);
        std::thread::sleep(PAUSE);
        let (announcer, sniffer) = self.processes();
        let frames = self.received(flooded);
        let times = [cpu_time(sniffer), cpu_time(announcer)];
        let start = Instant::now();
        let (wakes, done) = match target {
            Target::Others => self.wake_others(&wire, capture),
            Target::Same => self.wake_same(&wire),
        };
        let elapsed = start.elapsed().as_secs_f64();
        let share = |pid, before: Duration| (cpu_time(pid) - before).as_secs_f64() / elapsed * 100.0;
        let [sniffer, announcer] = [share(sniffer, times[0]), share(announcer, times[1])];
        let rate = (self.received(flooded) - frames) / elapsed;
        self.rows += 1;
        Measured { times: done, wakes, sniffer, announcer, sent: 0.0, rate, lost: 0.0 }
    }

    /// Wakes each domain of a set. Returns their number and the times.
    fn wake_others(&self, wire: &PacketSocket, capture: Capture) -> (usize, Vec<f64>) {
        let set = self.rows % SETS * self.size.others;
        let numbers = set..set + self.size.others;
        let packets: Vec<_> =
            numbers.clone().map(|number| packet(&mac(number), &[], capture, number)).collect();
        let times = self.results.of_all(wire, &packets, INTERVAL);
        numbers.for_each(|number| self.client.ensure_off(&name(number)));
        (self.size.others, times)
    }

    /// Wakes the domain with a password again and again. Returns the number of packets and the times.
    fn wake_same(&self, wire: &PacketSocket) -> (usize, Vec<f64>) {
        let packet = |number| packet(&SECRET.to_string(), &PASSWORD, Capture::All, number);
        let packets: Vec<_> = (0..self.size.same).map(packet).collect();
        let stop = || self.client.ensure_off("secret");
        (self.size.same, self.results.of_one(wire, &packets, INTERVAL_OF_ONE, stop))
    }

    fn start_hogs(&self) -> Vec<Process> {
        let start = |_| Process::start("sh", self.host.command("sh").args(["-c", "while :; do :; done"]));
        (0..HOGS).map(start).collect()
    }

    fn peer(&self, interface: &str) -> &Peer<'host> {
        let peers = INTERFACES.into_iter().zip(&self.peers);
        peers.into_iter().find(|(name, _)| *name == interface).expect("an interface of the scene").1
    }

    /// The announcer and the sniffer.
    fn processes(&self) -> (nix::unistd::Pid, nix::unistd::Pid) {
        let capture = self.capture.as_ref().expect("capture is running");
        (capture.pid(), capture.child("wakevirt-sniffer"))
    }

    /// The number of packets that were lost before the announcer received them.
    fn lost(&self) -> f64 {
        let counters = CaptureClient::open(&self.bus).counters();
        (counters.kernel_dropped + counters.channel_dropped) as f64
    }

    /// The number of frames that the host has received on this interface.
    fn received(&self, interface: &str) -> f64 {
        let count = self.host.sh(&format!("cat /sys/class/net/{interface}/statistics/rx_packets"));
        count.trim().parse().expect("a number of packets")
    }
}

/// A packet. Each has a different sender, so that it is not a copy of another one.
fn packet(mac: &str, password: &[u8], capture: Capture, number: usize) -> Packet {
    let [.., a, b, c] = number.to_be_bytes();
    let magic = magic(mac, password);
    let frame = |ethertype, payload: &[u8]| ethernet(BROADCAST, [2, 0, 0, a, b, c], ethertype, payload);
    let frame = if capture == Capture::Udp {
        let (source, destination) = (Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 255));
        frame(0x0800, &udp4(source, destination, UDP_PORT, &magic))
    } else {
        frame(WAKE_ON_LAN, &magic)
    };
    Packet { mac: mac.to_owned(), frame }
}

fn name(number: usize) -> String {
    format!("vm-{number}")
}
