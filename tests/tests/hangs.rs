//! libvirtd hangs, resumes, or is killed while wakes are in progress: the actor keeps running, and each wake ends
//! exactly once.
//!
//! The `WAKEVIRT_ROUNDS` environment variable multiplies the number of rounds in each test that hangs or kills libvirtd.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, define_all, qemu_domain, test_domain};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::network::inject::Injector;
use wakevirt_tests::process::Process;
use wakevirt_tests::scene::{ALL_ALLOWED, saved_state};
use wakevirt_tests::{privileged, wait};

/// libvirt closes the connection to a daemon that does not answer pings for 20 s. The additional time is for busy
/// machines.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A host with domains that are shut off, and everything that is needed to wake them.
struct Scene<'host> {
    host: &'host Host,
    libvirtd: Libvirtd<'host>,
    uri: &'static str,
    domains: usize,
    wire: Injector,
    sender: u8,
    actor: Daemon,
    finished: Process,
    _capture: Daemon,
    _bus: Bus<'host>,
}

fn name(number: usize) -> String {
    format!("vm-{number}-")
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:01:{number:02x}")
}

impl<'host> Scene<'host> {
    /// Defines `domains` domains at the URI, and starts both services.
    fn new(host: &'host Host, uri: &'static str, domains: usize) -> Self {
        host.bridge("br0");
        let wire = host.veth("lan0").injector();
        let libvirtd = Libvirtd::start(host);
        let bus = Bus::start(host, Kind::DbusDaemon);
        let domain = |number| match uri {
            QEMU => qemu_domain(&name(number), &mac(number), "br0"),
            _ => test_domain(&name(number), &mac(number)),
        };
        define_all(host, uri, (0..domains).map(domain));
        let capture = ready(Daemon::capture(host).config("interfaces = [\"lan0\"]").start());
        host.wait_for_name(CAPTURE_NAME);
        let config = format!("connections = [\"{uri}\"]\ncool-down = \"0s\"\n{ALL_ALLOWED}");
        let actor = ready(Daemon::actor(host).config(&config).start());
        host.wait_for_name(ACTOR_NAME);
        let _ = actor.log().wait_for("connected to");
        let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
        Self { host, libvirtd, uri, domains, wire, sender: 0, actor, finished, _capture: capture, _bus: bus }
    }

    fn destroy_all(&self) {
        let commands = (0..self.domains).map(|number| format!("destroy {};", name(number)));
        self.libvirtd.virsh(self.uri, &[&commands.collect::<String>()]);
    }

    fn stop_libvirtd(&self) {
        self.libvirtd.process().signal(Signal::SIGSTOP);
    }

    fn resume_libvirtd(&self) {
        self.libvirtd.process().signal(Signal::SIGCONT);
    }

    /// Sends a packet for each of these domains. Each call uses a new source address.
    fn send(&mut self, domains: impl Iterator<Item = usize>) {
        self.sender = self.sender.wrapping_add(1);
        for number in domains {
            let sender = [2, 0, 0, 0, 0, self.sender];
            self.wire.send(&ethernet(BROADCAST, sender, WAKE_ON_LAN, &magic(&mac(number), &[])));
        }
    }

    /// Sends packets for all domains, and waits until the actor has recorded all wakes. Sends a packet again if capture
    /// has dropped it because of its limits.
    fn wake_all(&mut self) {
        self.send(0..self.domains);
        wait::until_true("all wakes to be in progress", || {
            let missing = |scene: &Self| {
                // The actor writes its state file before it calls libvirt.
                let state = saved_state(scene.host);
                let state = String::from_utf8_lossy(&state);
                (0..scene.domains).filter(|number| !state.contains(&name(*number))).collect::<Vec<_>>()
            };
            let complete = wait::within(Duration::from_secs(2), || missing(self).is_empty().then_some(()));
            let missing = missing(self);
            self.send(missing.into_iter());
            complete.is_some()
        });
    }

    /// Waits until all wakes have ended with this outcome, each for the `round`th time.
    fn wait_for_outcomes(&mut self, outcome: &str, round: usize) {
        for number in 0..self.domains {
            let signal = format!("'{}', '{outcome}'", name(number));
            let ended = self.wait_until(|scene| scene.finished.log().count(&signal) >= round);
            assert!(ended, "{signal} is missing:\n{}", self.logs());
        }
        let wakes = self.finished.log().count(&format!("-', '{outcome}'"));
        assert_eq!(wakes, self.domains * round, "not once for each domain:\n{}", self.logs());
        self.assert_actor_runs();
    }

    /// Waits until the actor has logged the loss of its connection to libvirt for the `round`th time.
    fn wait_for_lost_connection(&mut self, reason: &str, round: usize) {
        let line = format!(" lost: {reason}");
        let lost = self.wait_until(|scene| scene.actor.log().count(&line) == round);
        assert!(lost, "{line:?} is missing:\n{}", self.logs());
    }

    /// Waits until the condition holds. Returns whether it does, and fails if the actor exits.
    fn wait_until(&mut self, condition: impl Fn(&Self) -> bool) -> bool {
        let result = wait::within(TIMEOUT, || {
            let holds = condition(self);
            (holds || self.actor.exit_status().is_some()).then_some(holds)
        });
        self.assert_actor_runs();
        result == Some(true)
    }

    fn assert_actor_runs(&mut self) {
        let status = self.actor.exit_status();
        assert!(status.is_none(), "the actor exited: {status:?}\n{}", self.logs());
    }

    fn logs(&self) -> String {
        [self.actor.log().all(), self.finished.log().all()].concat().join("\n")
    }
}

fn ready(mut daemon: Daemon) -> Daemon {
    daemon.wait_until_ready();
    daemon
}

fn rounds() -> usize {
    std::env::var("WAKEVIRT_ROUNDS").ok().map_or(1, |rounds| rounds.parse().unwrap())
}

/// libvirtd hangs while wakes are in progress until its clients close the connection, and then resumes.
fn libvirtd_times_out(domains: usize) {
    let host = Host::new();
    let mut scene = Scene::new(&host, TEST, domains);
    for round in 1..=rounds() {
        let _ = scene.actor.log().wait_for_nth("connected to", round);
        scene.stop_libvirtd();
        scene.wake_all();
        scene.wait_for_lost_connection("the daemon does not respond", round);
        scene.resume_libvirtd();
        scene.wait_for_outcomes("started", round);
        scene.destroy_all();
    }
}

/// libvirtd hangs and resumes before its clients close the connection.
fn libvirtd_hangs_briefly(domains: usize) {
    let host = Host::new();
    let mut scene = Scene::new(&host, TEST, domains);
    for round in 1..=10 * rounds() {
        scene.stop_libvirtd();
        scene.wake_all();
        scene.resume_libvirtd();
        scene.wait_for_outcomes("started", round);
        scene.destroy_all();
    }
    assert_eq!(scene.actor.log().count(" lost: "), 0, "{}", scene.logs());
}

/// libvirtd hangs and is killed.
fn libvirtd_is_killed(domains: usize) {
    let host = Host::new();
    let mut scene = Scene::new(&host, QEMU, domains);
    for round in 1..=rounds() {
        let _ = scene.actor.log().wait_for_nth("connected to", round);
        scene.stop_libvirtd();
        scene.wake_all();
        scene.libvirtd.kill();
        scene.wait_for_lost_connection("the daemon closed it", round);
        scene.libvirtd.start_again();
        scene.wait_for_outcomes("started", round);
        scene.destroy_all();
    }
}

/// Defines tests, each of which calls a function with a number of wakes.
macro_rules! for_wakes {
    ($(fn $name:ident() { $function:ident($wakes:literal) })*) => { $(
        #[test]
        fn $name() {
            privileged!();
            $function($wakes);
        }
    )* };
}

for_wakes! {
    fn two_wakes_survive_a_libvirtd_timeout() { libvirtd_times_out(2) }
    fn eight_wakes_survive_a_libvirtd_timeout() { libvirtd_times_out(8) }
    fn a_hundred_wakes_survive_a_libvirtd_timeout() { libvirtd_times_out(100) }
    fn eight_wakes_survive_a_brief_libvirtd_hang() { libvirtd_hangs_briefly(8) }
    fn a_hundred_wakes_survive_a_brief_libvirtd_hang() { libvirtd_hangs_briefly(100) }
    fn two_wakes_survive_a_killed_libvirtd() { libvirtd_is_killed(2) }
    fn eight_wakes_survive_a_killed_libvirtd() { libvirtd_is_killed(8) }
}

/// The thread IDs of a process.
fn threads(process: &Process) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    tasks.map(|task| task.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn wakes_create_no_threads() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, TEST, 8);
    let before = threads(&scene.actor);
    for round in 1..=3 {
        scene.send(0..8);
        scene.wait_for_outcomes("started", round);
        let after = threads(&scene.actor);
        assert!(after.is_subset(&before), "{:?}", after.difference(&before));
        scene.destroy_all();
    }
}
