//! A system whose components fail and start again.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, define_all, qemu_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::network::inject::Injector;
use wakevirt_tests::process::Process;
use wakevirt_tests::scene::{ALL_ALLOWED, is_saved};
use wakevirt_tests::wait;

/// `RestartSec=` of both units.
pub const RESTART: Duration = Duration::from_millis(200);
/// `hold` of the actor.
pub const HOLD: Duration = Duration::from_secs(3);
/// The time in which a component or a wake must recover, on a busy machine.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// The number of a domain that does not exist.
const STRANGER: usize = 200;

/// A component that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Actor,
    Announcer,
    Sniffer,
    Libvirtd,
    Bus,
}

impl Part {
    pub const ALL: [Self; 5] = [Self::Actor, Self::Announcer, Self::Sniffer, Self::Libvirtd, Self::Bus];
}

/// A bridge with one port, domains that are shut off, and everything that wakes them.
pub struct System<'host> {
    pub host: &'host Host,
    /// The machine that sends the packets.
    pub lan: Peer<'host>,
    wire: Injector,
    pub libvirtd: Libvirtd<'host>,
    pub bus: Bus<'host>,
    pub actor: Option<Daemon>,
    pub capture: Option<Daemon>,
    /// A service that runs a second time.
    pub second: Option<Daemon>,
    /// The actor's configuration.
    pub config: String,
    /// The logs of processes that have exited.
    earlier: HashMap<Part, Vec<String>>,
    sender: u32,
    /// What is added to CLOCK_BOOTTIME of both services, in seconds.
    pub boottime_offset: usize,
    /// The domains that libvirtd was starting when it was last killed.
    pub killed_during: Option<Vec<String>>,
}

/// The configuration of an actor for which any packet wakes its domain.
pub fn config() -> String {
    format!("connections = [\"{QEMU}\"]\ncool-down = \"0s\"\nhold = \"{}s\"\n{ALL_ALLOWED}", HOLD.as_secs())
}

/// The name of a domain. None is contained in another one.
pub fn name(number: usize) -> String {
    format!("vm-{number}-")
}

pub fn mac(number: usize) -> String {
    format!("52:54:00:00:{:02x}:{:02x}", number / 256, number % 256)
}

/// Connects another machine to a port of the bridge.
fn connect_lan(host: &Host) -> Peer<'_> {
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0");
    lan
}

/// The frame of a magic packet, with the number of its sender.
pub fn frame(mac: &str, sender: u32) -> Vec<u8> {
    let [_, a, b, c] = sender.to_be_bytes();
    ethernet(BROADCAST, [2, 0, 0, a, b, c], WAKE_ON_LAN, &magic(mac, &[]))
}

impl<'host> System<'host> {
    /// Starts a system with this number of domains, in which any packet wakes its domain.
    pub fn new(host: &'host Host, domains: usize) -> Self {
        Self::configured(host, domains, config())
    }

    /// The same, with this configuration of the actor.
    pub fn configured(host: &'host Host, domains: usize, config: String) -> Self {
        Self::with_bus(host, domains, config, Kind::DbusDaemon)
    }

    /// The same, with this implementation of the bus.
    pub fn with_bus(host: &'host Host, domains: usize, config: String, bus: Kind) -> Self {
        let libvirtd = Libvirtd::start_without_bus(host);
        let bus = Bus::start(host, bus);
        host.bridge("br0");
        let lan = connect_lan(host);
        let wire = lan.injector();
        define_all(host, QEMU, (0..domains).map(|number| qemu_domain(&name(number), &mac(number), "br0")));
        let (actor, capture, second, earlier) = (None, None, None, HashMap::new());
        let mut system = Self {
            host,
            lan,
            wire,
            libvirtd,
            bus,
            actor,
            capture,
            second,
            config,
            earlier,
            sender: 0,
            boottime_offset: 0,
            killed_during: None,
        };
        system.start(Part::Announcer);
        system.start(Part::Actor);
        system.wait_until_ready();
        system
    }

    /// Connects another machine, after the port was deleted.
    pub fn connect_lan(&mut self) {
        self.lan = connect_lan(self.host);
        self.wire = self.lan.injector();
    }

    /// Sends one packet for the domain, each from another sender: capture does not treat any as a copy.
    pub fn send(&mut self, domain: usize) {
        self.sender += 1;
        self.wire.send(&frame(&mac(domain), self.sender));
    }

    /// Kills a component (SIGKILL). Returns at once, or when a process that the test reaps has exited.
    pub fn kill(&mut self, part: Part) {
        match part {
            Part::Actor | Part::Announcer => self.end(part, Process::kill),
            Part::Sniffer => self.signal(part, Signal::SIGKILL),
            Part::Libvirtd => {
                self.libvirtd.kill();
                self.killed_during = Some(self.libvirtd.starting());
            }
            Part::Bus => self.bus.kill(),
        }
    }

    /// Stops a service (SIGTERM). Returns when it has exited.
    ///
    /// # Panics
    /// If its exit status is not 0.
    pub fn stop(&mut self, service: Part) {
        self.end(service, Process::stop);
    }

    /// Sends a signal to a component.
    pub fn signal(&self, part: Part, signal: Signal) {
        match part {
            Part::Actor => self.actor.iter().for_each(|actor| actor.signal(signal)),
            Part::Announcer => self.capture.iter().for_each(|capture| capture.signal(signal)),
            Part::Sniffer => {
                if let Some(sniffer) = self.sniffer() {
                    let _ = kill(sniffer, signal);
                }
            }
            Part::Libvirtd => self.libvirtd.process().signal(signal),
            Part::Bus => self.bus.signal(signal),
        }
    }

    /// Starts a component again after [`Self::kill`], as systemd does. Does not wait until it is ready.
    pub fn start(&mut self, part: Part) {
        match part {
            // It can have exited without having been killed.
            Part::Actor => {
                self.end(Part::Actor, Process::kill);
                let actor = Daemon::actor(self.host).config(&self.config);
                self.actor = Some(actor.boottime_offset(self.boottime_offset).start());
            }
            // The announcer exits when its sniffer has exited.
            Part::Announcer | Part::Sniffer => {
                self.end(Part::Announcer, Process::kill);
                let capture = Daemon::capture(self.host).config("interfaces = [\"port0\"]");
                self.capture = Some(capture.boottime_offset(self.boottime_offset).start());
            }
            Part::Libvirtd => self.libvirtd.start_again(),
            Part::Bus => self.bus.start_again(),
        }
    }

    fn sniffer(&self) -> Option<Pid> {
        let capture = self.capture.as_ref()?;
        wakevirt_tests::process::proc::children(capture.pid()).first().copied()
    }

    /// Whether this service has exited.
    pub fn has_exited(&mut self, part: Part) -> bool {
        let service = if part == Part::Actor { &mut self.actor } else { &mut self.capture };
        service.as_mut().is_some_and(|daemon| daemon.exit_status().is_some())
    }

    /// Ends a service, unless it has exited, and keeps its log.
    fn end(&mut self, part: Part, how: fn(&mut Process)) {
        let service = if part == Part::Actor { &mut self.actor } else { &mut self.capture };
        if let Some(mut daemon) = service.take() {
            how(&mut daemon);
            self.earlier.entry(part).or_default().extend(daemon.log().all());
        }
    }

    /// Waits until both services are ready, and the actor is connected to libvirt.
    pub fn wait_until_ready(&mut self) {
        for daemon in [&mut self.capture, &mut self.actor].into_iter().flatten() {
            daemon.wait_until_ready();
        }
        self.host.wait_for_name(CAPTURE_NAME);
        self.host.wait_for_name(ACTOR_NAME);
        let connected = || {
            let log = self.actor.as_ref().expect("it was started").log();
            (log.count("connected to qemu") > log.count(" lost: ")).then_some(())
        };
        assert!(wait::within(RECOVERY, connected).is_some(), "the actor is not connected:\n{}", self.logs());
    }

    /// Waits until capture receives packets again, after the interface has changed. Sends packets for an address that no
    /// domain has.
    pub fn wait_until_received(&mut self) {
        let before = self.host.counter(CAPTURE_NAME, "Received");
        let received = || {
            self.send(STRANGER);
            // A packet that was sent earlier can be among them.
            (self.host.counter(CAPTURE_NAME, "Received") >= before + 2).then_some(())
        };
        let is_received = wait::within(RECOVERY, received).is_some();
        assert!(is_received, "capture receives nothing:\n{}", self.logs());
    }

    /// Waits until the actor has handled all packets so far. It handles them in order, so this sends one for an address
    /// that no domain has.
    pub fn wait_until_handled(&mut self) {
        let unknown = || self.host.counter(ACTOR_NAME, "UnknownPackets");
        let before = unknown();
        self.send(STRANGER);
        let handled = || (unknown() > before).then_some(());
        assert!(wait::within(RECOVERY, handled).is_some(), "packets are not handled:\n{}", self.logs());
    }

    /// All log lines of this service so far.
    pub fn log(&self, part: Part) -> Vec<String> {
        let current = if part == Part::Actor { &self.actor } else { &self.capture };
        let mut lines = self.earlier.get(&part).cloned().unwrap_or_default();
        lines.extend(current.iter().flat_map(|daemon| daemon.log().all()));
        lines
    }

    pub fn logs(&self) -> String {
        [self.log(Part::Announcer), self.log(Part::Actor)].concat().join("\n")
    }

    /// The outcomes of the domain's wakes so far.
    pub fn outcomes(&self, domain: usize) -> Vec<String> {
        self.outcomes_about(&format!(": domain \"{}\", ", name(domain)))
    }

    /// The outcomes of all wakes so far.
    pub fn all_outcomes(&self) -> Vec<String> {
        self.outcomes_about(": domain \"")
    }

    fn outcomes_about(&self, domain: &str) -> Vec<String> {
        let lines = self.log(Part::Actor);
        let outcome = |line: &String| {
            let (before, _) = line.split_once(domain)?;
            before.rsplit(' ').next().map(str::to_owned)
        };
        lines.iter().filter_map(outcome).collect()
    }

    /// How many packets for the domain capture has announced so far, according to its log. Capture writes the line after
    /// the announcement, and can be killed between both.
    pub fn announced(&self, domain: usize) -> usize {
        let line = format!("magic packet for {} ", mac(domain));
        self.log(Part::Announcer).iter().filter(|it| it.contains(&line)).count()
    }

    /// Sends one packet for the domain, which is off, and waits until the packet has started it.
    pub fn wake(&mut self, domain: usize) {
        let earlier = self.outcomes(domain).len();
        self.send(domain);
        let outcome = self.wait_for_outcome(domain, earlier);
        assert_eq!(outcome, "started", "{}:\n{}", name(domain), self.logs());
        self.wait_until_idle(domain);
    }

    /// How many packets for the domain have expired before the actor knew the domain, according to its log.
    pub fn expired_packets(&self, domain: usize) -> usize {
        let line = format!("expired: packet for {} ", mac(domain));
        self.log(Part::Actor).iter().filter(|it| it.contains(&line)).count()
    }

    /// Waits for another outcome of the domain's wakes after this number of earlier ones, and returns it.
    pub fn wait_for_outcome(&self, domain: usize, earlier: usize) -> String {
        let outcome = wait::within(RECOVERY, || self.outcomes(domain).get(earlier).cloned());
        outcome.unwrap_or_else(|| panic!("{}: no outcome:\n{}", name(domain), self.logs()))
    }

    /// Waits until no wake of the domain is active or held.
    pub fn wait_until_idle(&self, domain: usize) {
        let name = name(domain);
        let idle = || (!is_saved(self.host, name.as_bytes())).then_some(());
        assert!(wait::within(RECOVERY, idle).is_some(), "{name} is not idle:\n{}", self.logs());
    }

    /// Waits until the actor knows this definition of the domain and no earlier one, and would wake the domain.
    pub fn wait_until_known(&self, domain: usize) {
        let (mac, name) = (format!("'{}'", mac(domain)), name(domain));
        let uuid = format!("'uuid': <'{}'>", self.libvirtd.virsh(QEMU, &["domuuid", &name]).trim());
        let known = || {
            let reply = self.host.call(User::Root, ACTOR_NAME, "ExplainRules", &[&mac, "@a{sv} {}"]).ok()?;
            let is_only = reply.contains(&uuid) && reply.matches("'uuid': ").count() == 1;
            (is_only && reply.contains("'would-wake': <true>")).then_some(())
        };
        assert!(wait::within(RECOVERY, known).is_some(), "{name} is not known:\n{}", self.logs());
    }

    /// How many times libvirt has started the domain.
    pub fn starts(&self, domain: usize) -> usize {
        self.libvirtd.starts(&name(domain))
    }

    pub fn is_off(&self, domain: usize) -> bool {
        self.libvirtd.state(QEMU, &name(domain)) == "shut off"
    }

    /// Switches the domain off.
    pub fn destroy(&self, domain: usize) {
        self.libvirtd.virsh(QEMU, &["destroy", &name(domain)]);
    }

    /// Switches off a domain that libvirtd has left locked: kills its QEMU, if that is still running, and restarts libvirtd
    /// without its file about the domain.
    pub fn release(&mut self, domain: usize) {
        self.host.sh(&format!(
            "pid=$(cat /run/libvirt/qemu/{0}.pid || true)
             if grep -qs 'guest={0},' \"/proc/$pid/cmdline\"; then kill -KILL \"$pid\" || true; fi",
            name(domain)
        ));
        self.libvirtd.kill();
        self.host.sh(&format!("rm -f /run/libvirt/qemu/{}.*", name(domain)));
        self.libvirtd.start_again();
        let is_off = || self.is_off(domain).then_some(());
        assert!(wait::within(RECOVERY, is_off).is_some(), "{} is not off", name(domain));
        self.wait_until_ready();
    }
}
