//! How long packets are lost after an interface has got a name by which it is captured.

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{CAPTURE_INTERFACE, Dict, MAGIC_PACKET};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::wait::until_true;

use crate::bus::Subscriber;
use crate::packets::PacketSocket;
use crate::report::{Aim, Report};

const ROUNDS: usize = 20;
/// The time between two packets.
const INTERVAL: Duration = Duration::from_micros(500);

/// What happened to the interface that had the name.
#[derive(Clone, Copy, PartialEq)]
enum Earlier {
    /// It was deleted. The kernel has unbound the socket.
    Deleted,
    /// It lost the name, and still exists. The socket is bound to the loopback interface.
    Existing,
}

/// Measures with a socket that is bound to the interface, and with one socket for all interfaces. The interface gets an
/// alternative name: it is up, so packets arrive at once.
pub fn measure(report: &mut Report) {
    for (earlier, what) in [
        (Earlier::Deleted, "after an interface with the same name was deleted"),
        (Earlier::Existing, "after the interface lost the name"),
    ] {
        let bound = losses("lan0", earlier);
        let all = losses("lan0*", earlier);
        let baselines = |percent| [("one socket for all interfaces", percentile(&all, percent))];
        let (median, maximum) = (percentile(&bound, 50), percentile(&bound, 100));
        report.add(&format!("{what}, median"), "ms", median, &baselines(50));
        let name = format!("{what}, maximum");
        match earlier {
            Earlier::Deleted => report.aim(&name, "ms", maximum, &baselines(100), Aim::AtMost(20.0)),
            Earlier::Existing => report.add(&name, "ms", maximum, &baselines(100)),
        }
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() - 1) * percent / 100).copied().unwrap_or_default()
}

/// The times in ms, sorted, from the request for the name until the first packet that is announced is sent.
fn losses(interfaces: &str, earlier: Earlier) -> Vec<f64> {
    let host = Host::new();
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("other0");
    let config = format!("interfaces = [\"{interfaces}\"]\nlimit = 100000");
    let mut capture = Daemon::capture(&host).config(&config).start_on_bus();
    let mut subscriber = Subscriber::new(&bus, CAPTURE_INTERFACE, MAGIC_PACKET);
    let sender = Sender::start(PacketSocket::sender(&lan.network(), FAR_END));
    let mut ip = Ip::start(&host);
    let mut losses = Vec::new();
    for _ in 0..ROUNDS {
        let named = Instant::now();
        ip.run("link property add dev other0 altname lan0");
        let first = loop {
            let message = subscriber.next();
            let (_, mac, _): (u64, String, Dict) =
                message.body().deserialize().expect("the body of a MagicPacket");
            let sent = sender.time_of(&mac);
            if sent > named {
                break sent;
            }
        };
        losses.push((first - named).as_secs_f64() * 1e3);
        ip.run("link property del dev other0 altname lan0");
        // Until then, the packets of this round would count in the next one.
        while subscriber.next_within(20 * INTERVAL).is_some() {}
        if earlier == Earlier::Deleted {
            for (command, captured) in [("link add lan0 type bridge", true), ("link del lan0", false)] {
                // Until ip(8) exits, it can block the kernel's other changes of interfaces.
                let status = host.command("ip").args(command.split(' ')).status().expect("ip(8) starts");
                assert!(status.success(), "ip {command}: {status}");
                until_true("capture follows the interface", || captures(&host, "lan0") == captured);
            }
        }
    }
    ip.stop();
    sender.stop();
    capture.stop();
    losses.sort_unstable_by(f64::total_cmp);
    losses
}

/// Whether capture captures on the interface with this name.
fn captures(host: &Host, interface: &str) -> bool {
    let interfaces = host.property(User::Root, CAPTURE_INTERFACE, "Interfaces").expect("capture replies");
    interfaces.contains(&format!("'{interface}'"))
}

/// A running ip(8), because its start would take longer than what is measured.
struct Ip(Child);

impl Ip {
    fn start(host: &Host) -> Self {
        let mut command = host.command("ip");
        Self(command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip(8) starts"))
    }

    /// Runs a command. Does not wait for its result.
    fn run(&mut self, command: &str) {
        let input = self.0.stdin.as_mut().expect("a pipe");
        writeln!(input, "{command}").expect("ip(8) reads it");
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("a child");
        assert!(status.success(), "ip(8) failed: {status}");
    }
}

/// Sends a packet for a different address every [`INTERVAL`], in a thread.
struct Sender {
    /// The times at which the packets were sent, by the number of the packet.
    times: Arc<Mutex<VecDeque<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Sender {
    fn start(wire: PacketSocket) -> Self {
        let (times, stop) = (Arc::<Mutex<VecDeque<Instant>>>::default(), Arc::<AtomicBool>::default());
        let (sent, stopped) = (Arc::clone(&times), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for number in 0_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let target = address(number).to_string();
                let frame = ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &magic(&target, &[]));
                sent.lock().expect("no thread panicked").push_back(Instant::now());
                wire.send(&frame);
                std::thread::sleep(INTERVAL);
            }
        });
        Self { times, stop, thread }
    }

    fn time_of(&self, mac: &str) -> Instant {
        let mac: MacAddr = mac.parse().expect("the MAC address in a signal");
        let [_, _, number @ ..] = mac.octets();
        let number = usize::try_from(u32::from_be_bytes(number)).expect("a packet's number");
        *self.times.lock().expect("no thread panicked").get(number).expect("a packet that was sent")
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sender did not panic");
    }
}

fn address(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([0x52, 0x54, a, b, c, d])
}
