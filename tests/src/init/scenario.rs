//! One test for all init systems: wakevirt from boot to shutdown.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Init, System};
use crate::host::{Host, succeed};
use crate::libvirt::{QEMU, TEST, qemu_domain, test_domain};
use crate::network::Peer;
use crate::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use crate::process::Process;
use crate::process::proc::{self, Status};
use crate::wait;

const ACTOR: &str = "wakevirt-actor";
const CAPTURE: &str = "wakevirt-capture";
const SNIFFER: &str = "wakevirt-sniffer";

/// CAP_NET_RAW in a set of capabilities: capabilities(7).
const NET_RAW: u64 = 1 << 13;

/// The domains of the test driver, and one of QEMU, with their MAC addresses.
const FIRST: (&str, &str) = ("first", "52:54:00:00:00:01");
const SECOND: (&str, &str) = ("second", "52:54:00:00:00:02");
const REAL: (&str, &str) = ("real", "52:54:00:00:00:03");

/// The actor's configuration with rules for these domains.
fn config(domains: &[&str]) -> String {
    let rules: String = domains.iter().map(|name| format!("[[allow]]\ndomain = \"{name}\"\n")).collect();
    format!("connections = [\"{TEST}\", \"{QEMU}\"]\ncool-down = \"0s\"\n{rules}")
}

/// Runs the scenario, and returns the version of the init system.
///
/// # Panics
/// If a step fails.
pub fn run(init: Init) -> String {
    let host = Host::new();
    let system = System::new(&host, init);
    system.install();
    system.define_services();
    let mut scenario = Scenario { system, client: None, sender: 0 };
    scenario.boots_before_bus_and_libvirt();
    // The interface appears after capture has started.
    let lan = host.veth("port0");
    scenario.wake(&lan, FIRST);
    scenario.holds_no_privileges();
    scenario.restarts_killed_processes(&lan);
    scenario.reloads(&lan);
    scenario.gives_up_with_an_invalid_configuration(&lan);
    scenario.stops(&lan);
    scenario.boots_with_all_services(&host, &lan);
    let version = scenario
        .system
        .sh(&format!("dpkg-query --show --showformat '${{Package}} ${{Version}}' {}", init.name()));
    scenario.system.shut_down();
    version
}

struct Scenario<'host> {
    system: System<'host>,
    /// A client that remains connected. The test driver deletes all domains when its last client disconnects.
    client: Option<Process>,
    /// The last byte of the last sender's MAC address. capture treats packets from the same sender as copies.
    sender: u8,
}

impl Scenario<'_> {
    /// Only wakevirt and syslog start at boot. The bus and libvirt start later.
    fn boots_before_bus_and_libvirt(&mut self) {
        self.system.write("/etc/wakevirt/actor.toml", &config(&[FIRST.0, REAL.0]));
        if self.system.init() == Init::OpenRc {
            self.system.enable("syslog");
            self.system.write("/etc/conf.d/wakevirt-actor", "respawn_max=2\n");
        }
        self.system.enable(ACTOR);
        self.system.enable(CAPTURE);
        self.system.boot();
        for (service, line) in
            [(CAPTURE, "connection to the system bus failed"), (ACTOR, "no connection to test")]
        {
            self.wait_for_log(service, line);
        }
        self.wait_for_log(CAPTURE, "receiving on UDP 0.0.0.0:9");
        self.system.start("dbus");
        self.wait_for_log(ACTOR, "receiving packets from the announcer");
        self.system.start("libvirtd");
        self.use_libvirt();
    }

    /// Connects to libvirt, and defines the domains of its test driver.
    fn use_libvirt(&mut self) {
        self.system.wait_until("libvirt", &format!("virsh -c {TEST} uri"));
        let mut virsh = self.system.command("virsh");
        virsh.args(["-q", "-c", TEST, "uri; event --loop --timestamp --all"]);
        let client = Process::start("virsh event", &mut virsh);
        // The client is connected when it has printed its first line.
        let _ = client.log().wait_for("test");
        self.client = Some(client);
        for (name, mac) in [FIRST, SECOND] {
            self.define(TEST, &test_domain(name, mac));
        }
    }

    fn define(&self, uri: &str, xml: &str) {
        self.system.write("/run/domain.xml", xml);
        self.virsh(uri, &["define", "/run/domain.xml"]);
    }

    fn virsh(&self, uri: &str, arguments: &[&str]) -> String {
        succeed(self.system.command("virsh").args(["-q", "-c", uri]).args(arguments)).trim().to_owned()
    }

    fn wait_for_log(&self, service: &str, text: &str) {
        wait::until_true(&format!("{text:?} in the log of {service}"), || {
            self.system.log_of(service).contains(text)
        });
    }

    /// Sends one packet for a domain.
    fn packet(&mut self, lan: &Peer<'_>, mac: &str) {
        self.sender = self.sender.wrapping_add(1);
        lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, self.sender], WAKE_ON_LAN, &magic(mac, &[])));
    }

    /// Sends packets until the domain of the test driver runs, and switches it off. Packets are lost until capture is
    /// ready.
    fn wake(&mut self, lan: &Peer<'_>, domain: (&str, &str)) {
        self.wake_on(TEST, lan, domain);
    }

    fn wake_on(&mut self, uri: &str, lan: &Peer<'_>, (name, mac): (&str, &str)) {
        let mut sent: Option<Instant> = None;
        wait::until_true(&format!("a packet to wake {name}"), || {
            if sent.is_none_or(|at| at.elapsed() > Duration::from_millis(300)) {
                self.packet(lan, mac);
                sent = Some(Instant::now());
            }
            self.virsh(uri, &["domstate", name]) == "running"
        });
        self.virsh(uri, &["destroy", name]);
    }

    /// All programs run as their own users, without capabilities. As root, only supervisors run.
    fn holds_no_privileges(&self) {
        let actor = self.user_without_privileges(ACTOR, 0);
        let capture = self.user_without_privileges(CAPTURE, NET_RAW);
        assert_eq!(self.user_without_privileges(SNIFFER, NET_RAW), capture);
        assert_ne!(actor, capture);
        let supervisor = self.system.init().supervisor();
        for pid in self.system.all_processes() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("wakevirt") && Status::of(pid).effective_uid() == 0 {
                assert_eq!(proc::program(pid).as_deref(), supervisor, "runs as root: {line}");
            }
        }
    }

    /// Checks that a program runs without capabilities and cannot gain any, and returns its user. `bounding` are the
    /// capabilities that its bounding set can contain.
    fn user_without_privileges(&self, program: &str, bounding: u64) -> u32 {
        let status = Status::of(self.system.process(program));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status.capabilities(set), 0, "{set} of {program}");
        }
        assert_eq!(status.capabilities("CapBnd") & !bounding, 0, "{program}");
        assert_eq!(status.field("NoNewPrivs"), "1", "{program}");
        let user = status.effective_uid();
        assert_ne!(user, 0, "{program}");
        assert_eq!(status.field("Uid"), [user.to_string().as_str(); 4].join(" "), "{program}");
        user
    }

    /// The init system starts each process again after SIGKILL.
    fn restarts_killed_processes(&mut self, lan: &Peer<'_>) {
        for program in [CAPTURE, SNIFFER, ACTOR] {
            let killed = self.system.process(program);
            kill(killed, Signal::SIGKILL).expect("it is running");
            wait::until_true(&format!("a new {program}"), || {
                self.system.processes(program).iter().any(|pid| *pid != killed)
            });
            self.wake(lan, FIRST);
        }
        self.holds_no_privileges();
    }

    /// A reload applies a new rule. An invalid configuration is reported, and the old one stays in use.
    fn reloads(&mut self, lan: &Peer<'_>) {
        self.packet(lan, SECOND.1);
        self.wait_for_log(ACTOR, "not-allowed");
        self.system.write("/etc/wakevirt/actor.toml", &config(&[FIRST.0, SECOND.0, REAL.0]));
        assert!(self.system.reload(ACTOR));
        self.wake(lan, SECOND);
        self.system.write("/etc/wakevirt/actor.toml", "invalid");
        assert_eq!(self.system.reload(ACTOR), !self.system.init().checks_reload());
        self.wait_for_log(ACTOR, "reload failed");
        self.wake(lan, SECOND);
        assert!(self.system.reload(CAPTURE));
        self.wait_for_log(CAPTURE, "configuration reloaded");
    }

    /// If its configuration is invalid, the init system does not start the actor again and again.
    fn gives_up_with_an_invalid_configuration(&mut self, lan: &Peer<'_>) {
        let errors = |system: &System<'_>| system.log_of(ACTOR).matches("/etc/wakevirt/actor.toml").count();
        let before = errors(&self.system);
        let killed = self.system.process(ACTOR);
        kill(killed, Signal::SIGKILL).expect("it is running");
        // Shepherd reports the service as stopped before it starts it once more. OpenRC does not run the program.
        if self.system.init() != Init::OpenRc {
            wait::until_true("the actor to reject its configuration", || errors(&self.system) > before);
        }
        wait::until_true("the actor to be down", || self.system.is_down(ACTOR));
        assert_eq!(self.system.processes(ACTOR), []);
        if self.system.init() == Init::OpenRc {
            // The program reports this error before it opens syslog.
            let errors = self.system.read("/var/log/wakevirt-actor.log");
            assert!(errors.contains("/etc/wakevirt/actor.toml"), "{errors}");
        }
        self.system.write("/etc/wakevirt/actor.toml", &config(&[FIRST.0, SECOND.0, REAL.0]));
        self.system.start(ACTOR);
        self.wake(lan, FIRST);
    }

    /// A stopped service stays down until it is started.
    fn stops(&mut self, lan: &Peer<'_>) {
        for (service, programs) in [(ACTOR, &[ACTOR][..]), (CAPTURE, &[CAPTURE, SNIFFER])] {
            self.system.stop(service);
            let left: Vec<Pid> = programs.iter().flat_map(|program| self.system.processes(program)).collect();
            assert_eq!(left, [], "after {service} has stopped");
            assert!(self.system.is_down(service), "{service}");
        }
        // The actor creates this file only if SIGTERM ended it.
        assert!(self.system.path("/run/wakevirt-actor/ended").exists());
        self.reports_a_stopped_actor();
        if self.system.init() == Init::OpenRc {
            self.starts_without_the_libvirt_group();
        }
        self.system.start(CAPTURE);
        self.system.start(ACTOR);
        self.wake(lan, FIRST);
    }

    /// The file that makes systemd start the actor has no effect without systemd, and does not hide the cause.
    /// wakevirtctl prints the command of the init system.
    fn reports_a_stopped_actor(&self) {
        let installed = "/usr/share/dbus-1/system-services/org.wakevirt.Actor1.service";
        assert!(!self.system.path(installed).exists());
        self.system.copy("dbus/org.wakevirt.Actor1.service", installed);
        self.system.sh("dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ReloadConfig");
        let output = self.system.command("wakevirtctl").args(["wake", FIRST.0]).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let command = "wakevirt-actor is not running; start it, as root: ";
        let command = stderr.split_once(command).unwrap_or_else(|| panic!("{stderr}")).1.trim();
        let expected = match self.system.init() {
            Init::OpenRc => "rc-update add wakevirt-actor default && rc-service wakevirt-actor start",
            Init::Runit => "sv start wakevirt-actor",
            Init::S6 => "s6-svc -u /etc/s6/service/wakevirt-actor",
            Init::Shepherd => "herd start wakevirt-actor",
        };
        assert_eq!(command, expected);
        self.system.sh(command);
        wait::until_true("the actor to run", || self.system.processes(ACTOR).len() == 1);
        self.system.stop(ACTOR);
        std::fs::remove_file(self.system.path(installed)).expect("it was installed");
    }

    /// With this setting of OpenRC, the actor has only the groups of its user.
    fn starts_without_the_libvirt_group(&self) {
        // For command_user, OpenRC opens a PAM session, which would wait for elogind. It does not run on this system.
        self.system.sh("sed -i /pam_elogind/d /etc/pam.d/common-session");
        let settings = "/etc/conf.d/wakevirt-actor";
        let before = self.system.read(settings);
        self.system.write(settings, &format!("{before}command_user=wakevirt-actor:wakevirt-actor\n"));
        self.system.start(ACTOR);
        let actor = self.system.process(ACTOR);
        wait::until_true("the actor to drop its privileges", || Status::of(actor).field("NoNewPrivs") == "1");
        self.user_without_privileges(ACTOR, u64::MAX);
        let own = self.system.sh("id --groups wakevirt-actor");
        assert_eq!(Status::of(actor).field("Groups"), own.trim());
        self.system.stop(ACTOR);
        self.system.write(settings, &before);
    }

    /// All services start at the next boot. A packet then also wakes a domain of QEMU.
    fn boots_with_all_services(&mut self, host: &Host, lan: &Peer<'_>) {
        for service in ["dbus", "libvirtd"] {
            self.system.enable(service);
        }
        self.client = None;
        self.system.reboot();
        self.use_libvirt();
        self.wake(lan, FIRST);
        host.bridge("br0");
        self.define(QEMU, &qemu_domain(REAL.0, REAL.1, "br0"));
        self.wake_on(QEMU, lan, REAL);
        self.client = None;
    }
}
