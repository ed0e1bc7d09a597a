//! Floods of the bus: however much anybody sends, the services' memory is bounded and packets wake. On both
//! buses. How long the wakes took is printed (`--nocapture`); docs/PERFORMANCE.md says what was seen.
#![expect(clippy::expect_used, reason = "a test may stop where it stands")]
#![expect(clippy::print_stdout, reason = "how long the wakes took is for who asks, by --nocapture")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::bus::flood::FloodKind;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

const BUSES: [Kind; 2] = [Kind::DbusDaemon, Kind::DbusBroker];
/// How much memory a flood may take of a service, in KiB: what it has at once is bounded, and small.
const MEMORY: usize = 32 * 1024;
/// Two floods at once would be another flood.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// How long the bus may take to deliver what it has taken.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How many wakes are done beside each flood.
const WAKES: usize = 5;

/// Both services, and domains that run nowhere but in libvirt's test driver.
struct Scene<'host> {
    host: &'host Host,
    kind: Kind,
    lan: Peer<'host>,
    _libvirtd: Libvirtd<'host>,
    actor: Daemon,
    capture: Daemon,
    woken: usize,
    _bus: Bus<'host>,
}

impl<'host> Scene<'host> {
    fn new(host: &'host Host, kind: Kind) -> Self {
        let bus = Bus::start(host, kind);
        let lan = host.veth("lan0");
        let libvirtd = Libvirtd::start(host);
        for number in 0..100 {
            libvirtd.define(TEST, &test_domain(&name(number), &mac(number)));
        }
        let mut capture = Daemon::capture(host).start();
        capture.wait_until_ready();
        host.wait_for_name(CAPTURE_NAME);
        let config = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"*\"\n");
        let mut actor = Daemon::actor(host).config(&config).start();
        actor.wait_until_ready();
        host.wait_for_name(ACTOR_NAME);
        let _ = actor.log().wait_for("connected to");
        Self { host, kind, lan, _libvirtd: libvirtd, actor, capture, woken: 0, _bus: bus }
    }

    /// Wakes one more domain by a packet, and returns how long it took until the actor said that it had started.
    fn wake_next(&mut self) -> Duration {
        let number = self.woken;
        self.woken += 1;
        let begun = Instant::now();
        self.lan.injector().send(&wakevirt_tests::network::frames::ethernet(
            wakevirt_tests::network::frames::BROADCAST,
            [2, 0, 0, 0, 0, 9],
            wakevirt_tests::network::frames::WAKE_ON_LAN,
            &wakevirt_tests::network::frames::magic(&mac(number), &[]),
        ));
        let _ = self.actor.log().wait_for(&format!("started: domain \"{}\"", name(number)));
        begun.elapsed()
    }

    /// Floods, wakes and calls beside it, and looks at the memory and the connections of both services.
    fn withstands(&mut self, user: User, flood: FloodKind, connections: usize, count: u32, to: Option<&str>) {
        let before = self.peaks();
        let owners = self.owners();
        let flooding = self.host.flood(user, flood, connections, count, to);
        // A flood that is over by now would show nothing.
        let first = self.wake_next();
        let beside = is_running(&flooding);
        let took: Vec<_> = core::iter::once(first).chain((1..WAKES).map(|_| self.wake_next())).collect();
        // A fresh connection of root is answered, however many calls others have under way.
        let call = || match self.host.call(User::Root, ACTOR_NAME, "ListDomains", &[]) {
            // dbus-daemon refuses calls itself while it holds long messages for the service.
            Err(error) if error.message.contains("destination has a full message queue") => None,
            answer => Some(answer),
        };
        let root = wait::within(TIMEOUT, call).expect("the bus delivers the call");
        let ended = || (!is_running(&flooding)).then_some(());
        assert!(wait::within(TIMEOUT, ended).is_some(), "{:?}: the flood ends", self.kind);
        let sent = flooding.log().count("flooded") > 0;
        let said = flooding.log().last(1);
        drop(flooding);
        let after = self.peaks();
        let grown = [after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1])];
        println!(
            "{:?}: {flood:?} by {user:?}, {connections} x {count}: wakes took {took:?}, memory of actor and capture \
             grew by {grown:?} KiB",
            self.kind,
        );
        assert!(beside, "{:?}: {flood:?} by {user:?} ended before a wake: {said}", self.kind);
        // dbus-broker has a quota of bytes for each user, and disconnects who exceeds it.
        let refused = self.kind == Kind::DbusBroker && flood == FloodKind::Long;
        assert_eq!(sent, !refused, "{:?}: {flood:?} by {user:?}: {said}", self.kind);
        assert!(root.is_ok(), "{:?}: {flood:?} by {user:?} kept root from an answer: {root:?}", self.kind);
        assert_eq!(
            self.owners(),
            owners,
            "{:?}: {flood:?} by {user:?}: no service loses its connection",
            self.kind
        );
        for grown in grown {
            assert!(grown < MEMORY, "{:?}: {flood:?} by {user:?} took {grown} KiB", self.kind);
        }
    }

    /// The connections of both services, by unique name.
    fn owners(&self) -> [String; 2] {
        const BUS: &str = "org.freedesktop.DBus";
        [ACTOR_NAME, CAPTURE_NAME].map(|name| {
            let owner = self.host.call(User::Root, BUS, "GetNameOwner", &[&format!("'{name}'")]);
            owner.expect("the service has its name")
        })
    }

    /// The most memory that actor and announcer have had, in KiB.
    fn peaks(&self) -> [usize; 2] {
        [&self.actor, &self.capture].map(|daemon| {
            let peak = daemon.status().field("VmHWM").trim_end_matches(" kB").trim().to_owned();
            peak.parse().expect("a number")
        })
    }

    /// The connections of the actor's user, by unique name.
    fn connections_of_the_actor(&self) -> Vec<String> {
        const BUS: &str = "org.freedesktop.DBus";
        let actor = format!("(uint32 {},)", self.actor.status().effective_uid());
        let names = self.host.call(User::Root, BUS, "ListNames", &[]).expect("the bus answers");
        let is_of_actor = |name: &&str| {
            let user = self.host.call(User::Root, BUS, "GetConnectionUnixUser", &[&format!("'{name}'")]);
            user.is_ok_and(|user| user == actor)
        };
        names
            .split('\'')
            .filter(|name| name.starts_with(':'))
            .filter(is_of_actor)
            .map(str::to_owned)
            .collect()
    }
}

/// Whether the actor lists its domains before the caller gives up.
fn answers(host: &Host) -> bool {
    let path = format!("/{}", ACTOR_NAME.replace('.', "/"));
    let mut call = host.command("busctl");
    call.args(["call", "--system", ACTOR_NAME, &path, ACTOR_NAME, "ListDomains"]);
    call.output().expect("busctl runs").status.success()
}

fn is_running(flood: &Process) -> bool {
    flood.log().count("flooded") == 0 && flood.log().count("wakevirt-test-flood:") == 0
}

fn name(number: usize) -> String {
    format!("vm{number}")
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:01:{number:02x}")
}

/// Each flood on either bus. Afterwards the actor still answers.
fn withstand(floods: &[(User, FloodKind, usize, u32)]) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for bus in BUSES {
        let host = Host::new();
        let mut scene = Scene::new(&host, bus);
        let took: Vec<_> = (0..WAKES).map(|_| scene.wake_next()).collect();
        println!("{bus:?}: no flood: wakes took {took:?}");
        for (user, flood, connections, count) in floods {
            scene.withstands(*user, *flood, *connections, *count, None);
        }
        // What the bus holds of the flood comes first.
        let answer = || answers(&host).then_some(());
        assert!(wait::within(TIMEOUT, answer).is_some(), "{bus:?}: the actor still answers");
        scene.actor.stop();
        scene.capture.stop();
    }
}

#[test]
fn calls_without_a_reply_neither_exhaust_memory_nor_block_wakes() {
    privileged!();
    withstand(&[
        (User::Unprivileged, FloodKind::Wake, 1, 100_000),
        (User::Unprivileged, FloodKind::Wake, 20, 20_000),
        (User::LibvirtMember, FloodKind::ListDomains, 20, 10_000),
    ]);
}

#[test]
fn calls_with_a_reply_neither_exhaust_memory_nor_block_wakes() {
    privileged!();
    withstand(&[
        (User::Unprivileged, FloodKind::WakeReply, 20, 5_000),
        (User::Unprivileged, FloodKind::ActorProperties, 20, 5_000),
        (User::Unprivileged, FloodKind::CaptureProperties, 20, 5_000),
        (User::LibvirtMember, FloodKind::Replay, 20, 5_000),
    ]);
}

#[test]
fn calls_of_standard_interfaces_neither_exhaust_memory_nor_block_wakes() {
    privileged!();
    withstand(&[
        (User::Unprivileged, FloodKind::Ping, 20, 5_000),
        (User::Unprivileged, FloodKind::Introspect, 20, 5_000),
    ]);
}

#[test]
fn long_messages_neither_exhaust_memory_nor_block_wakes() {
    privileged!();
    withstand(&[(User::Unprivileged, FloodKind::Long, 20, 2)]);
}

#[test]
fn messages_with_unknown_header_fields_disconnect_no_service() {
    privileged!();
    withstand(&[(User::Unprivileged, FloodKind::UnknownField, 20, 20_000)]);
}

#[test]
fn new_connections_neither_exhaust_memory_nor_block_wakes() {
    privileged!();
    withstand(&[(User::Unprivileged, FloodKind::FreshConnections, 20, 4_000)]);
}

#[test]
fn signals_reach_no_service() {
    privileged!();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for bus in BUSES {
        let host = Host::new();
        let mut scene = Scene::new(&host, bus);
        let connections = scene.connections_of_the_actor();
        assert_eq!(connections.len(), 2, "one with the name, one without: {connections:?}");
        for connection in &connections {
            scene.withstands(User::Unprivileged, FloodKind::Signal, 20, 20_000, Some(connection));
        }
        assert_eq!(scene.actor.log().count("dropped a magic packet"), 0, "the bus keeps them from it");
    }
}
