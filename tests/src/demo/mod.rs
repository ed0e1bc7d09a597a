//! The demonstration: what happens between a magic packet and a VM that runs, for a person to watch.
//!
//! It is the bench of the tests, with somebody who tells what goes on. Nothing here is simulated but
//! the hypervisor's machines: those of libvirt's test driver boot in no time.

mod events;
mod rights;
mod screen;

use std::panic;
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

/// Name, MAC address, and what else the rule says that allows it, if there is one.
type Domain = (&'static str, &'static str, Option<&'static str>);

/// The domains.
const DOMAINS: [Domain; 6] = [
    ("desktop", "52:54:00:00:00:01", Some("")),
    ("media", "52:54:00:00:00:02", Some("")),
    ("build", "52:54:00:00:00:03", Some("")),
    ("laptop", "52:54:00:00:00:05", Some("")),
    ("secret", "52:54:00:00:00:04", Some("sources = [\"02:00:00:00:00:01\"]")),
    ("archive", "52:54:00:00:00:06", None),
];

/// The only machine that may wake `secret`.
const TRUSTED: &str = "02:00:00:00:00:01";

/// How long a decision may take before the demonstration has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for copies of a packet that have not been told yet.
const COPIES: Duration = Duration::from_millis(50);

/// Runs the demonstration, and tells in its last line whether the VM runs.
#[must_use]
pub fn run() -> ExitCode {
    let screen = Screen::new();
    if let Some(reason) = guard::why_not(&[guard::FOR_DEMO, &["busctl"]].concat()) {
        screen.failure(&format!("the demonstration cannot run here: {reason}"));
        return ExitCode::FAILURE;
    }
    // The bench stops by a panic. Whatever it has started ends with this process.
    panic::set_hook(Box::new(move |panic| {
        let reason = panic.payload_as_str().unwrap_or("for no reason that is known");
        let (reason, more) = reason.split_once('\n').unwrap_or((reason, ""));
        more.lines().for_each(|line| screen.note(line));
        screen.failure(&format!("The VM does not run. What failed: {reason}"));
        std::process::exit(1);
    }));
    show(screen);
    ExitCode::SUCCESS
}

fn show(screen: Screen) {
    screen.title("wakevirt: a magic packet arrives, and the VM that it names runs");

    screen.heading("The stage, in namespaces of its own");
    let host = Host::new();
    host.bridge("br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0; ip address add 192.0.2.1/24 dev br0");
    lan.address("192.0.2.2/24");
    screen.item("network", "a host with the bridge br0, and a machine behind its port port0");
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    screen.item("bus", "dbus-daemon, with the policy from dbus/");
    let libvirtd = Libvirtd::start(&host);
    for (name, mac, _) in DOMAINS {
        libvirtd.define(TEST, &test_domain(name, mac));
    }
    libvirtd.virsh(TEST, &["start", "laptop"]);
    libvirtd.virsh(TEST, &["suspend", "laptop"]);
    screen.item("hypervisor", "libvirtd with its test driver");

    let mut capture = Daemon::capture(&host).started_by(StartedBy::Root).start();
    capture.wait_until_ready();
    let config = format!("connections = [\"{TEST}\"]\n{}", rules());
    let mut actor = Daemon::actor(&host).started_by(StartedBy::Root).config(&config).start();
    actor.wait_until_ready();
    screen.item("services", "started by root, as a service manager does; now each has its own user:");
    rights::show(screen, &[capture.pid(), capture.child("wakevirt-sniffer"), actor.pid()]);
    // /proc does not tell of it. Capture does not start without, unless the configuration says so.
    screen.note("and Landlock, which closes every file to the sniffer");

    let before = states(&libvirtd);
    let events = Events::subscribe(&host);
    let act = Act { screen, events, host: &host, libvirtd: &libvirtd, services: [&capture, &actor] };

    screen.heading("Packets from the machine on the network, and how long after the announcer knew of them");
    act.wakes("desktop", "started", "etherwake: a bare frame, sent to the domain's own address", |mac| {
        lan.etherwake(mac, &[]);
    });
    act.wakes("media", "started", "wakeonlan: UDP to the subnet's broadcast address, port 9", |mac| {
        lan.wakeonlan(mac, "192.0.2.255", &[]);
    });
    act.wakes("build", "started", "crafted: a frame in two VLANs, with a SecureOn password", |mac| {
        lan.send(&crafted(mac));
    });
    act.wakes("laptop", "resumed", "etherwake: for a domain that is paused", |mac| lan.etherwake(mac, &[]));
    act.wakes_not("secret", "etherwake: for a domain that only another machine may wake", |mac| {
        lan.etherwake(mac, &[]);
    });
    act.says_nothing(&lan, "secret");

    screen.heading("The actor explains, and does nothing: such a packet, and one from the machine that may");
    act.explains("secret", &address_of(&lan), "false");
    act.explains("secret", TRUSTED, "true");

    screen.heading("Somebody on the host, without any right");
    refused(screen, &host);

    screen.heading("Root, who needs no rule");
    act.is_woken_by_root("archive");

    screen.heading("The domains");
    for ((name, mac, _), before) in DOMAINS.iter().zip(before) {
        screen.domain(name, mac, &before, &libvirtd.state(TEST, name));
    }
    actor.stop();
    capture.stop();
    screen.success("The VM runs: one magic packet each has started desktop, media and build.");
}

/// A frame that no tool at hand sends.
fn crafted(mac: &str) -> Vec<u8> {
    let frame = ethernet(bytes_of(mac), [2, 0, 0, 0, 0, 7], WAKE_ON_LAN, &magic(mac, b"secret"));
    tagged(&tagged(&frame, 0x8100, 42), 0x88a8, 7)
}

/// The address that the machine sends from.
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

fn mac_of(domain: &str) -> &'static str {
    DOMAINS.iter().find(|(name, _, _)| *name == domain).map_or("", |(_, mac, _)| mac)
}

/// One packet, and what follows from it.
struct Act<'a> {
    screen: Screen,
    events: Events,
    host: &'a Host,
    libvirtd: &'a Libvirtd<'a>,
    services: [&'a Daemon; 2],
}

impl Act<'_> {
    fn wakes(&self, domain: &str, outcome: &str, what: &str, send: impl FnOnce(&str)) {
        self.play(domain, what, outcome, send);
        assert_eq!(self.libvirtd.state(TEST, domain), "running", "the state of {domain}");
    }

    fn wakes_not(&self, domain: &str, what: &str, send: impl FnOnce(&str)) {
        self.play(domain, what, "not-allowed", send);
        assert_eq!(self.libvirtd.state(TEST, domain), "shut off", "the state of {domain}");
    }

    fn play(&self, domain: &str, what: &str, expected: &str, send: impl FnOnce(&str)) {
        self.screen.packet(what);
        send(mac_of(domain));
        self.follow(domain, expected);
    }

    /// What is told until there is a decision about the domain, which has this outcome.
    fn follow(&self, domain: &str, expected: &str) {
        let mut read = None;
        loop {
            let event = self.events.next(PATIENCE).unwrap_or_else(|| {
                let logs = self.services.map(|service| service.log().all().join("\n")).join("\n\n");
                panic!("there is no decision about {domain}; above is what the services say\n{logs}");
            });
            if let Event::Packet { boottime, .. } = &event {
                read = read.or(*boottime);
            }
            self.screen.event(&event, read);
            if let Event::Decision { domain: decided, outcome, .. } = &event {
                assert_eq!((decided.as_str(), outcome.as_str()), (domain, expected), "the decision");
                break;
            }
        }
        // A copy of the same packet, seen on the bridge as well, may be told after the decision.
        while let Some(event) = self.events.next(COPIES) {
            self.screen.event(&event, read);
        }
    }

    /// What would come of a packet from this machine. It is asked as a person would ask.
    fn explains(&self, domain: &str, source: &str, expected: &str) {
        let arguments = ["Explain", "sa{sv}", mac_of(domain), "1", "source-mac", "s", source];
        let reply = self.busctl(&arguments);
        assert!(reply.starts_with(&format!("bs {expected} ")), "the explanation is {reply}");
    }

    fn is_woken_by_root(&self, domain: &str) {
        let reply = self.busctl(&["Wake", "s", mac_of(domain)]);
        assert_eq!(reply, "s \"started\"", "the reply");
        self.follow(domain, "started");
        assert_eq!(self.libvirtd.state(TEST, domain), "running", "the state of {domain}");
    }

    /// Calls the actor by busctl(1) as root, shows the call and the reply, and returns the reply.
    fn busctl(&self, arguments: &[&str]) -> String {
        let object = [ACTOR_NAME, ACTOR_PATH, ACTOR_INTERFACE];
        let line = [&["busctl", "call"], object.as_slice(), arguments].concat().join(" ");
        let reply = succeed(self.host.command("busctl").arg("call").args(object).args(arguments));
        self.screen.call(&line, reply.trim());
        reply.trim().to_owned()
    }

    /// One copy of the address is missing, so it is no magic packet.
    fn says_nothing(&self, lan: &Peer<'_>, domain: &str) {
        self.screen.packet("crafted: the address fifteen times, where sixteen make a magic packet");
        let mac = mac_of(domain);
        let mut frame = ethernet(bytes_of(mac), [2, 0, 0, 0, 0, 8], WAKE_ON_LAN, &magic(mac, &[]));
        frame.truncate(frame.len() - 6);
        lan.send(&frame);
        if let Some(event) = self.events.next(Duration::from_millis(300)) {
            self.screen.event(&event, None);
            panic!("something that is no magic packet was announced");
        }
        self.screen.silence("nothing is announced");
    }
}

/// What the bus and the actor refuse to a user in no group.
fn refused(screen: Screen, host: &Host) {
    let mac = format!("'{}'", mac_of("secret"));
    let (bus, capture, actor) = ("org.freedesktop.DBus", "org.wakevirt.Capture1", "org.wakevirt.Actor1");
    for (what, interface, method, arguments) in [
        (
            "pretends to be the capture service",
            bus,
            "RequestName",
            &["'org.wakevirt.Capture1'", "uint32 4"][..],
        ),
        ("asks for the password of a packet", capture, "GetSecureOn", &["''", "uint64 3"]),
        ("asks the actor to wake a domain", actor, "Wake", &[&mac]),
    ] {
        match host.call(User::Stranger, interface, method, arguments) {
            Err(error) => screen.refusal(what, error.name.rsplit('.').next().unwrap_or(&error.name)),
            Ok(reply) => panic!("a stranger {what}, and is answered: {reply}"),
        }
    }
}
