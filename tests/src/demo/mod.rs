//! The demonstration: shows each step from a magic packet to a running VM.
//!
//! It uses the test bench. Only the VMs are simulated, because libvirt's test driver boots nothing.

mod events;
pub mod kubevirt;
mod privileges;
mod screen;
pub mod vm;

use std::process::ExitCode;
use std::time::Duration;

use wakevirt_protocol::bus::{ACTOR_INTERFACE, ACTOR_NAME, ACTOR_PATH};

use crate::bus::{Bus, Kind};
use crate::daemon::{Daemon, StartedBy};
use crate::demo::events::{Event, Events};
use crate::demo::screen::Screen;
use crate::host::guard;
use crate::host::{Host, User, succeed};
use crate::libvirt::{Libvirtd, TEST, test_domain};
use crate::network::frames::{WAKE_ON_LAN, bytes_of, ethernet, magic, tagged};
use crate::network::{FAR_END, Peer};

/// Name, MAC address, and the conditions of the rule that allows the domain, if there is one.
type Domain = (&'static str, &'static str, Option<&'static str>);

const DOMAINS: [Domain; 6] = [
    ("desktop", "52:54:00:00:00:01", Some("")),
    ("media", "52:54:00:00:00:02", Some("")),
    ("build", "52:54:00:00:00:03", Some("")),
    ("laptop", "52:54:00:00:00:05", Some("")),
    ("secret", "52:54:00:00:00:04", Some("sources = [\"02:00:00:00:00:01\"]")),
    ("archive", "52:54:00:00:00:06", None),
];

/// The only sender that can wake `secret`.
const TRUSTED: &str = "02:00:00:00:00:01";

/// The demonstration fails if no decision arrives within this time.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The time to wait for copies of a packet after the decision.
const COPIES: Duration = Duration::from_millis(50);

/// Runs the demonstration. Its last line says whether the VMs are running.
#[must_use]
pub fn run() -> ExitCode {
    run_with(&[guard::FOR_DEMO, &["busctl"]].concat(), show)
}

/// Runs a demonstration that needs these programs.
fn run_with(programs: &[&str], show: fn(Screen)) -> ExitCode {
    let screen = Screen::new();
    if let Some(reason) = guard::missing_requirement(programs) {
        screen.failure(&format!("The demonstration cannot run here: {reason}"));
        return ExitCode::FAILURE;
    }
    screen.fail_on_panic();
    show(screen);
    ExitCode::SUCCESS
}

fn show(screen: Screen) {
    screen.title("wakevirt: a magic packet arrives, and its VM starts");

    screen.heading("Set-up, in separate namespaces");
    let host = Host::new();
    let lan = set_up_network(screen, &host);
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    screen.item("bus", "dbus-daemon with the policy files in dbus/");
    let libvirtd = set_up_libvirt(screen, &host);
    let (mut capture, mut actor) = start_services(screen, &host);

    let before = states(&libvirtd);
    let events = Events::subscribe(&host);
    let demo =
        Demonstration { screen, events, host: &host, libvirtd: &libvirtd, services: [&capture, &actor] };
    send_packets(&demo, &lan);

    screen.heading(
        "The actor explains its decision on the packet for secret, and on one from the trusted sender",
    );
    demo.explain("secret", &address_of(&lan), "false");
    demo.explain("secret", TRUSTED, "true");

    screen.heading("An unprivileged user on the host");
    show_denied_calls(screen, &host);

    screen.heading("Root, who needs no rule");
    demo.wake_as_root("archive");

    screen.heading("The domains");
    for ((name, mac, _), before) in DOMAINS.iter().zip(before) {
        screen.domain(name, mac, &before, &libvirtd.state(TEST, name));
    }
    actor.stop();
    capture.stop();
    screen.success("The VMs are running: desktop, media and build were each started by one magic packet.");
}

fn set_up_network(screen: Screen, host: &Host) -> Peer<'_> {
    host.bridge("br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0; ip address add 192.0.2.1/24 dev br0");
    lan.address("192.0.2.2/24");
    screen.item("network", "a host with a bridge, br0, and a machine connected to its port, port0");
    lan
}

fn set_up_libvirt(screen: Screen, host: &Host) -> Libvirtd<'_> {
    let libvirtd = Libvirtd::start(host);
    for (name, mac, _) in DOMAINS {
        libvirtd.define(TEST, &test_domain(name, mac));
    }
    libvirtd.virsh(TEST, &["start", "laptop"]);
    libvirtd.virsh(TEST, &["suspend", "laptop"]);
    screen.item("hypervisor", "libvirtd with its test driver");
    libvirtd
}

fn start_services(screen: Screen, host: &Host) -> (Daemon, Daemon) {
    let capture = Daemon::capture(host).started_by(StartedBy::Root).start_ready();
    let config = format!("connections = [\"{TEST}\"]\n{}", rules());
    let actor = Daemon::actor(host).started_by(StartedBy::Root).config(&config).start_ready();
    screen.item("services", "started as root; each has switched to its own user:");
    privileges::show(screen, &[capture.pid(), capture.child("wakevirt-sniffer"), actor.pid()]);
    // /proc does not show Landlock. Capture does not start without it, unless its configuration allows that.
    screen.note("Landlock also denies the sniffer access to all files");
    (capture, actor)
}

fn send_packets(demo: &Demonstration<'_>, lan: &Peer<'_>) {
    demo.screen
        .heading("Packets from the machine on the network, and the time since the announcer received them");
    demo.wake("desktop", "started", "etherwake: an Ethernet frame to the domain's address", |mac| {
        lan.etherwake(mac, &[]);
    });
    demo.wake("media", "started", "wakeonlan: UDP to the subnet's broadcast address, port 9", |mac| {
        lan.wakeonlan(mac, "192.0.2.255", &[]);
    });
    demo.wake("build", "started", "crafted: a frame with two VLAN tags and a SecureOn password", |mac| {
        lan.send(&crafted(mac));
    });
    demo.wake("laptop", "resumed", "etherwake: for a paused domain", |mac| lan.etherwake(mac, &[]));
    demo.expect_denied("secret", "etherwake: for a domain that only another sender can wake", |mac| {
        lan.etherwake(mac, &[]);
    });
    demo.expect_dropped(lan, "secret");
}

/// A frame that neither etherwake nor wakeonlan can send.
fn crafted(mac: &str) -> Vec<u8> {
    let frame = ethernet(bytes_of(mac), [2, 0, 0, 0, 0, 7], WAKE_ON_LAN, &magic(mac, b"secret"));
    tagged(&tagged(&frame, 0x8100, 42), 0x88a8, 7)
}

/// The address from which the machine sends.
fn address_of(lan: &Peer<'_>) -> String {
    lan.sh(&format!("cat /sys/class/net/{FAR_END}/address")).trim().to_owned()
}

fn rules() -> String {
    let rules = DOMAINS.iter().filter_map(|(name, _, rule)| Some((name, rule.as_ref()?)));
    rules.map(|(name, more)| format!("[[allow]]\ndomain = \"{name}\"\n{more}\n")).collect()
}

fn states(libvirtd: &Libvirtd<'_>) -> Vec<String> {
    DOMAINS.iter().map(|(name, _, _)| libvirtd.state(TEST, name)).collect()
}

/// The position in the list.
fn number(domain: &str) -> Option<usize> {
    DOMAINS.iter().position(|(name, _, _)| *name == domain)
}

fn mac_of(domain: &str) -> &'static str {
    DOMAINS.iter().find(|(name, _, _)| *name == domain).map_or("", |(_, mac, _)| mac)
}

/// Sends packets and shows what the services report.
struct Demonstration<'a> {
    screen: Screen,
    events: Events,
    host: &'a Host,
    libvirtd: &'a Libvirtd<'a>,
    services: [&'a Daemon; 2],
}

impl Demonstration<'_> {
    fn wake(&self, domain: &str, outcome: &str, what: &str, send: impl FnOnce(&str)) {
        self.send(domain, what, outcome, send);
        assert_eq!(self.libvirtd.state(TEST, domain), "running", "the state of {domain}");
    }

    fn expect_denied(&self, domain: &str, what: &str, send: impl FnOnce(&str)) {
        self.send(domain, what, "not-allowed", send);
        assert_eq!(self.libvirtd.state(TEST, domain), "shut off", "the state of {domain}");
    }

    fn send(&self, domain: &str, what: &str, expected: &str, send: impl FnOnce(&str)) {
        self.screen.packet(what);
        send(mac_of(domain));
        self.show_events(domain, expected);
    }

    /// Shows events until there is a decision on the domain, which must have this outcome.
    fn show_events(&self, domain: &str, expected: &str) {
        let mut received = None;
        loop {
            let event = self.events.next(TIMEOUT).unwrap_or_else(|| {
                let logs = self.services.map(|service| service.log().all().join("\n")).join("\n\n");
                panic!("there is no decision on {domain}; the logs of the services are above\n{logs}");
            });
            if let Event::Packet { boottime, .. } = &event {
                received = received.or(*boottime);
            }
            self.screen.event(&event, received);
            if let Event::Decision { domain: decided, outcome, .. } = &event {
                if decided == domain {
                    assert_eq!(outcome, expected, "the decision on {domain}");
                    break;
                }
                // It can be on a copy of an earlier packet. The domains are woken in the order of the list.
                assert!(number(decided) < number(domain), "a decision on {decided} instead of {domain}");
            }
        }
        // A copy of the same packet, captured on the bridge, can be announced after the decision.
        while let Some(event) = self.events.next(COPIES) {
            self.screen.event(&event, received);
        }
    }

    /// Shows the decision that the actor would make on a packet from this sender.
    fn explain(&self, domain: &str, source: &str, expected: &str) {
        let arguments = ["Explain", "sa{sv}", mac_of(domain), "1", "source-mac", "s", source];
        let reply = self.busctl(&arguments);
        assert!(reply.starts_with(&format!("bs {expected} ")), "the explanation is {reply}");
    }

    fn wake_as_root(&self, domain: &str) {
        let reply = self.busctl(&["Wake", "s", mac_of(domain)]);
        assert_eq!(reply, "s \"started\"", "the reply");
        self.show_events(domain, "started");
        assert_eq!(self.libvirtd.state(TEST, domain), "running", "the state of {domain}");
    }

    /// Calls the actor with busctl(1) as root, shows the call and the reply, and returns the reply.
    fn busctl(&self, arguments: &[&str]) -> String {
        let object = [ACTOR_NAME, ACTOR_PATH, ACTOR_INTERFACE];
        let line = [&["busctl", "call"], object.as_slice(), arguments].concat().join(" ");
        let reply = succeed(self.host.command("busctl").arg("call").args(object).args(arguments));
        self.screen.call(&line, reply.trim());
        reply.trim().to_owned()
    }

    /// Sends a frame with only 15 copies of the address, which is not a magic packet.
    fn expect_dropped(&self, lan: &Peer<'_>, domain: &str) {
        self.screen.packet("crafted: 15 copies of the address instead of 16");
        let mac = mac_of(domain);
        let mut frame = ethernet(bytes_of(mac), [2, 0, 0, 0, 0, 8], WAKE_ON_LAN, &magic(mac, &[]));
        frame.truncate(frame.len() - 6);
        lan.send(&frame);
        if let Some(event) = self.events.next(Duration::from_millis(300)) {
            self.screen.event(&event, None);
            panic!("a frame that is not a magic packet was announced");
        }
        self.screen.silence("dropped, not announced");
    }
}

/// Shows which calls the bus and the actor deny to a user without privileges.
fn show_denied_calls(screen: Screen, host: &Host) {
    let mac = format!("'{}'", mac_of("secret"));
    let (bus, capture, actor) = ("org.freedesktop.DBus", "org.wakevirt.Capture1", "org.wakevirt.Actor1");
    for (what, interface, method, arguments) in [
        ("requests capture's bus name", bus, "RequestName", &["'org.wakevirt.Capture1'", "uint32 4"][..]),
        ("requests a packet's password", capture, "GetSecureOn", &["''", "uint64 3"]),
        ("requests a wake from the actor", actor, "Wake", &[&mac]),
    ] {
        match host.call(User::Unprivileged, interface, method, arguments) {
            Err(error) => screen.denial(what, error.name.rsplit('.').next().unwrap_or(&error.name)),
            Ok(reply) => panic!("an unprivileged user {what}, and the reply is {reply}"),
        }
    }
}
