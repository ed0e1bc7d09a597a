//! From the wire to a domain that was started.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{ACTOR_INTERFACE, CAPTURE_NAME, Dict};
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

/// So many wakes are timed at most, of each kind in turn.
const WAKES: u8 = 50;
/// No more of them are begun after this time.
const TIME: Duration = Duration::from_secs(15);
/// No more domains are defined after this time.
const DEFINING: Duration = Duration::from_secs(30);
/// Between two, everything falls asleep, and libvirt's events are done with.
const PAUSE: Duration = Duration::from_millis(50);
/// What QEMU's domains are connected to.
const BRIDGE: &str = "br0";

/// Measures it with few domains and with many of libvirt's test driver, which boots nothing, and with
/// a few that are real.
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
    let libvirt = Connect::open(Some(&from_here(&host, connection))).expect("a connection to libvirt");
    let domains = define(&libvirt, connection, domains);

    let mut capture = Daemon::capture(&host).config("limit = 100000\ninterfaces = [\"lan0\"]").start();
    capture.wait_until_ready();
    host.wait_for_name(CAPTURE_NAME);
    let mut config = format!("connections = [\"{connection}\"]\ncool-down = \"0s\"\n");
    config += "[[allow]]\ndomain = \"ours-*\"\n";
    let mut actor = Daemon::actor(&host).config(&config).start();
    actor.wait_until_ready();
    let _ = actor.log().wait_for("connected to");

    let mut finished = Subscriber::new(&bus, ACTOR_INTERFACE, "WakeFinished");
    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let tool_wire = PacketSocket::sender(&other.network(), FAR_END);
    let (tool, started) = tool(PacketSocket::reader(&host.network(), "tool0"), libvirt.clone());

    let (mut ours, mut tools, mut bare) = (vec![], vec![], vec![]);
    let half = domains / 2;
    let first = Instant::now();
    for wake in (0..WAKES).take_while(|_| first.elapsed() < TIME) {
        // From another sender each time: this is no copy of the packet before.
        let sender = [2, 0, 0, 0, 1, wake];
        let frame = |mac: &str| ethernet(BROADCAST, sender, WAKE_ON_LAN, &magic(mac, &[]));
        let number = 2 * (usize::from(wake) % half);
        let tools_number = number + 1;

        let frame_for_us = frame(&mac(number));
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        wire.send(&frame_for_us);
        wait_for(&mut finished, &mac(number));
        ours.push(begin.elapsed());
        let domain = find(&libvirt, number);
        domain.destroy().expect("a domain that runs");

        let frame_for_tool = frame(&mac(tools_number));
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        tool_wire.send(&frame_for_tool);
        tools.push(started.recv().expect("the tool lives") - begin);
        find(&libvirt, tools_number).destroy().expect("a domain that runs");

        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        // One call, as the actor's; virDomainCreate would be two.
        domain.create_with_flags(0).expect("a domain that starts");
        bare.push(begin.elapsed());
        domain.destroy().expect("a domain that runs");
    }
    let _ = tool.stop();

    let [ours, tools, bare] = [ours, tools, bare].map(in_milliseconds);
    let baselines =
        [("a tool that lists and reads them all", median(&tools)), ("libvirt's start alone", median(&bare))];
    let what = if connection == QEMU { "domains of QEMU" } else { "domains" };
    report.add(&format!("{domains} {what}, median"), "ms", median(&ours), &baselines);
    let added: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours - bare).collect();
    report.add(&format!("{domains} {what}, added to libvirt's start"), "ms", median(&added), &[]);
    let processes = [
        ("sniffer", capture.child("wakevirt-sniffer")),
        ("announcer", capture.pid()),
        ("actor", actor.pid()),
    ];
    report_memory(report, &format!("{domains} {what}"), &processes);
    actor.stop();
    capture.stop();
}

/// The URI for this process of what is another one on the host.
fn from_here(host: &Host, connection: &str) -> String {
    let path = if connection == QEMU { "qemu+unix:///system" } else { "test+unix:///default" };
    format!("{path}?socket={}", host.path("/run/libvirt/libvirt-sock").display())
}

/// Defines so many domains, if the time allows; one half is for us, the other for the tool. Returns
/// how many there are.
fn define(libvirt: &Connect, connection: &str, domains: usize) -> usize {
    let begin = Instant::now();
    let mut defined = 0;
    while defined < domains && begin.elapsed() < DEFINING {
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

/// What other tools do: for each packet they list all domains, read the XML of each, look for the
/// address in it, and start the one that has it.
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

/// The MAC address in a Wake-on-LAN frame.
fn address_in(frame: &[u8]) -> Option<MacAddr> {
    if frame.get(12..14)? != WAKE_ON_LAN.to_be_bytes() {
        return None;
    }
    Some(MacAddr::new(frame.get(20..26)?.try_into().ok()?))
}

fn find(libvirt: &Connect, number: usize) -> Domain {
    libvirt.lookup_domain_by_name(&name(number)).expect("a domain of this name")
}

fn name(number: usize) -> String {
    let whose = if number.is_multiple_of(2) { "ours" } else { "tools" };
    format!("{whose}-{number}")
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 0xff)
}

fn in_milliseconds(times: Vec<Duration>) -> Vec<f64> {
    times.iter().map(|time| time.as_secs_f64() * 1e3).collect()
}
