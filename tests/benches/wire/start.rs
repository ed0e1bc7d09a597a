//! From the wire to a domain that was started.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{ACTOR_INTERFACE, CAPTURE_NAME, Dict};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirtd::{Libvirtd, TEST, test_domain};
use wakevirt_tests::net::FAR_END;

use crate::bus::Subscriber;
use crate::packets::{PacketSocket, Reading};
use crate::process::report_memory;
use crate::report::{Report, median};

/// So many wakes are timed, of each kind in turn.
const WAKES: usize = 50;
/// Between two, everything falls asleep, and libvirt's events are done with.
const PAUSE: Duration = Duration::from_millis(20);

/// Measures it with few domains and with many, all of libvirt's test driver, which boots nothing.
pub fn measure(report: &mut Report) {
    measure_among(report, 10);
    measure_among(report, 1000);
}

fn measure_among(report: &mut Report, domains: usize) {
    let host = Host::new();
    let _libvirtd = Libvirtd::start(&host);
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let (lan, other) = (host.veth("lan0"), host.veth("tool0"));
    let uri = format!("test+unix:///default?socket={}", host.path("/run/libvirt/libvirt-sock").display());
    let libvirt = Connect::open(Some(&uri)).expect("a connection to libvirt");
    // One half is for us, the other for the tool.
    for number in 0..domains {
        let _ = libvirt.define_domain_xml(&test_domain(&name(number), &mac(number))).expect("a domain");
    }

    let mut capture = Daemon::capture(&host).config("limit = 100000\ninterfaces = [\"lan0\"]").start();
    capture.wait_until_ready();
    host.wait_for_name(CAPTURE_NAME);
    let rules = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"ours-*\"\n");
    let mut actor = Daemon::actor(&host).config(&rules).start();
    actor.wait_until_ready();
    let _ = actor.log().wait_for("connected to");

    let mut finished = Subscriber::new(&bus, ACTOR_INTERFACE, "WakeFinished");
    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let tool_wire = PacketSocket::sender(&other.network(), FAR_END);
    let (tool, started) = tool(PacketSocket::reader(&host.network(), "tool0"), libvirt.clone());

    let (mut ours, mut tools, mut bare) = (vec![], vec![], vec![]);
    let half = domains / 2;
    for wake in 0..WAKES {
        // From another sender each time: this is no copy of the packet before.
        let sender = [2, 0, 0, 0, 1, u8::try_from(wake).expect("few wakes")];
        let frame = |mac: &str| ethernet(BROADCAST, sender, WAKE_ON_LAN, &magic(mac, &[]));
        let (number, tools_number) = (2 * (wake % half), 2 * (wake % half) + 1);

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
        domain.create().expect("a domain that starts");
        bare.push(begin.elapsed());
        domain.destroy().expect("a domain that runs");
    }
    let _ = tool.stop();

    let [ours, tools, bare] = [ours, tools, bare].map(in_milliseconds);
    let baselines =
        [("a tool that lists and reads them all", median(&tools)), ("libvirt's start alone", median(&bare))];
    report.add(&format!("{domains} domains, median"), "ms", median(&ours), &baselines);
    let processes = [
        ("sniffer", capture.child("wakevirt-sniffer")),
        ("announcer", capture.pid()),
        ("actor", actor.pid()),
    ];
    report_memory(report, &format!("{domains} domains"), &processes);
    actor.stop();
    capture.stop();
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
