//! Wakes that are under way when libvirtd hangs, goes on, or is killed: the actor lives, each wake is decided about
//! once, and none is lost.
//!
//! With WAKEVIRT_ROUNDS each is repeated as often.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, TEST, qemu_domain, test_domain};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::network::inject::Injector;
use wakevirt_tests::process::Process;
use wakevirt_tests::scene::ALL_ALLOWED;
use wakevirt_tests::{privileged, wait};

/// libvirt gives up a daemon that answers no ping after 20 s; this is for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// So many domains that are off, and all that wakes them.
struct Crowd<'host> {
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
    format!("crowd-{number}-")
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:01:{number:02x}")
}

/// Does this to each domain, by one virsh(1).
fn each(
    libvirtd: &Libvirtd<'_>,
    uri: &str,
    domains: usize,
    command: &str,
    argument: impl Fn(usize) -> String,
) {
    let mut commands = String::new();
    (0..domains).for_each(|number| write!(commands, "{command} {};", argument(number)).unwrap());
    libvirtd.virsh(uri, &[&commands]);
}

fn define(libvirtd: &Libvirtd<'_>, uri: &str, domains: usize) {
    let file = |number: usize| format!("/run/crowd/{number}");
    for number in 0..domains {
        let xml = match uri {
            QEMU => qemu_domain(&name(number), &mac(number), "br0"),
            _ => test_domain(&name(number), &mac(number)),
        };
        libvirtd.host().write(&file(number), &xml);
    }
    each(libvirtd, uri, domains, "define", file);
}

impl<'host> Crowd<'host> {
    /// The domains belong to this driver.
    fn new(host: &'host Host, uri: &'static str, domains: usize) -> Self {
        host.bridge("br0");
        let wire = host.veth("lan0").injector();
        let libvirtd = Libvirtd::start(host);
        let bus = Bus::start(host, Kind::DbusDaemon);
        define(&libvirtd, uri, domains);
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
        each(&self.libvirtd, self.uri, self.domains, "destroy", name);
    }

    fn stop(&self) {
        self.libvirtd.process().signal(Signal::SIGSTOP);
    }

    fn go_on(&self) {
        self.libvirtd.process().signal(Signal::SIGCONT);
    }

    /// Sends a packet for each of these domains, from another sender than before.
    fn send(&mut self, domains: impl Iterator<Item = usize>) {
        self.sender = self.sender.wrapping_add(1);
        for number in domains {
            let sender = [2, 0, 0, 0, 0, self.sender];
            self.wire.send(&ethernet(BROADCAST, sender, WAKE_ON_LAN, &magic(&mac(number), &[])));
        }
    }

    /// Sends packets for all domains, and waits until the actor is about to wake them. Where capture holds some back,
    /// as it may do with so many, they are sent again.
    fn wake_all(&mut self) {
        self.send(0..self.domains);
        wait::until_true("all wakes to be under way", || {
            let missing = |crowd: &Self| {
                // What is to be done is written down before libvirt is called.
                let state = std::fs::read(crowd.host.path("/run/wakevirt-actor/state")).unwrap_or_default();
                let state = String::from_utf8_lossy(&state);
                (0..crowd.domains).filter(|number| !state.contains(&name(*number))).collect::<Vec<_>>()
            };
            let all = wait::within(Duration::from_secs(2), || missing(self).is_empty().then_some(()));
            let late = missing(self);
            self.send(late.into_iter());
            all.is_some()
        });
    }

    /// All wakes have this outcome, each for the `round`th time.
    fn all_end(&mut self, outcome: &str, round: usize) {
        for number in 0..self.domains {
            let told = format!("'{}', '{outcome}'", name(number));
            let ended = self.sees(|crowd| crowd.finished.log().count(&told) >= round);
            assert!(ended, "{told} is missing:\n{}", self.story());
        }
        let wakes = self.finished.log().count(&format!("-', '{outcome}'"));
        assert_eq!(wakes, self.domains * round, "once each:\n{}", self.story());
        self.lives();
    }

    /// The actor says for the `round`th time that it has lost libvirt.
    fn loses_libvirt(&mut self, reason: &str, round: usize) {
        let line = format!("is lost: {reason}");
        let lost = self.sees(|crowd| crowd.actor.log().count(&line) == round);
        assert!(lost, "{line:?} is missing:\n{}", self.story());
    }

    /// Whether this comes to be so while the actor lives.
    fn sees(&mut self, is_so: impl Fn(&Self) -> bool) -> bool {
        let seen = wait::within(TIMEOUT, || {
            let seen = is_so(self);
            (seen || self.actor.exit_status().is_some()).then_some(seen)
        });
        self.lives();
        seen == Some(true)
    }

    fn lives(&mut self) {
        let ended = self.actor.exit_status();
        assert!(ended.is_none(), "the actor has ended: {ended:?}\n{}", self.story());
    }

    fn story(&self) -> String {
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

/// libvirtd hangs while wakes are under way, until its clients give it up; then it goes on.
fn hangs_until_it_is_given_up(domains: usize) {
    let host = Host::new();
    let mut crowd = Crowd::new(&host, TEST, domains);
    for round in 1..=rounds() {
        let _ = crowd.actor.log().wait_for_nth("connected to", round);
        crowd.stop();
        crowd.wake_all();
        crowd.loses_libvirt("the daemon does not answer", round);
        crowd.go_on();
        crowd.all_end("started", round);
        crowd.destroy_all();
    }
}

/// libvirtd hangs for a moment.
fn hangs_for_a_moment(domains: usize) {
    let host = Host::new();
    let mut crowd = Crowd::new(&host, TEST, domains);
    for round in 1..=10 * rounds() {
        crowd.stop();
        crowd.wake_all();
        crowd.go_on();
        crowd.all_end("started", round);
        crowd.destroy_all();
    }
    assert_eq!(crowd.actor.log().count("is lost"), 0, "{}", crowd.story());
}

/// libvirtd hangs and is killed.
fn hangs_and_is_killed(domains: usize) {
    let host = Host::new();
    let mut crowd = Crowd::new(&host, QEMU, domains);
    for round in 1..=rounds() {
        let _ = crowd.actor.log().wait_for_nth("connected to", round);
        crowd.stop();
        crowd.wake_all();
        crowd.libvirtd.kill();
        crowd.loses_libvirt("the daemon has closed it", round);
        crowd.libvirtd.start_again();
        crowd.all_end("started", round);
        crowd.destroy_all();
    }
}

/// Each of them for so many wakes.
macro_rules! for_wakes {
    ($(fn $name:ident() { $story:ident($wakes:literal) })*) => { $(
        #[test]
        fn $name() {
            privileged!();
            $story($wakes);
        }
    )* };
}

for_wakes! {
    fn two_wakes_survive_a_libvirtd_timeout() { hangs_until_it_is_given_up(2) }
    fn eight_wakes_survive_a_libvirtd_timeout() { hangs_until_it_is_given_up(8) }
    fn a_hundred_wakes_survive_a_libvirtd_timeout() { hangs_until_it_is_given_up(100) }
    fn eight_wakes_survive_a_short_libvirtd_hang() { hangs_for_a_moment(8) }
    fn a_hundred_wakes_survive_a_short_libvirtd_hang() { hangs_for_a_moment(100) }
    fn two_wakes_survive_a_killed_libvirtd() { hangs_and_is_killed(2) }
    fn eight_wakes_survive_a_killed_libvirtd() { hangs_and_is_killed(8) }
}

/// The threads of a process.
fn threads(process: &Process) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    tasks.map(|task| task.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn wakes_create_no_threads() {
    privileged!();
    let host = Host::new();
    let mut crowd = Crowd::new(&host, TEST, 8);
    let before = threads(&crowd.actor);
    for round in 1..=3 {
        crowd.send(0..8);
        crowd.all_end("started", round);
        let after = threads(&crowd.actor);
        assert!(after.is_subset(&before), "{:?}", after.difference(&before));
        crowd.destroy_all();
    }
}
