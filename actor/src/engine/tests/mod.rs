use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

mod logs;

use serde::Deserialize;
use uuid::Uuid;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_service::clock;

use super::*;
use crate::engine::attempt::{End, wake};
use crate::engine::request::Requests;
use crate::engine::state_file::SavedWake;
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::session::{self, Session};
use crate::hypervisor::{Attempting, Error, Hypervisor, Order, Terms};
use crate::model::Trigger;
use crate::model::{Domain, Id, Pause, State};
use crate::policy::Times;
use crate::policy::rules::{Paused, Rule, Rules};

const ROOT: Caller = Caller { user: 0, by: crate::model::Authority::User };

/// A hypervisor whose starts wait until they are let go.
struct Fake {
    states: Mutex<HashMap<Uuid, State>>,
    starts: Mutex<Vec<Uuid>>,
    calls: Mutex<Vec<&'static str>>,
    /// What the state is after a start.
    restored: Mutex<State>,
    dead: AtomicBool,
    held: Mutex<BTreeSet<Uuid>>,
    released: Condvar,
    /// How often a state was asked for.
    looks: AtomicUsize,
}

impl Fake {
    fn new(states: &[(u8, State)], held: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            states: Mutex::new(states.iter().map(|(number, state)| (uuid(*number), *state)).collect()),
            starts: Mutex::default(),
            calls: Mutex::default(),
            restored: Mutex::new(State::Running),
            dead: AtomicBool::new(false),
            held: Mutex::new(held.iter().map(|number| uuid(*number)).collect()),
            released: Condvar::new(),
            looks: AtomicUsize::new(0),
        })
    }

    fn release(&self) {
        self.held.lock().unwrap().clear();
        self.released.notify_all();
    }

    async fn until_it_starts(&self) {
        while self.starts().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_it_looks(&self, times: usize) {
        while self.looks.load(Ordering::SeqCst) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn state_of(&self, uuid: Uuid) -> State {
        self.states.lock().unwrap().get(&uuid).copied().unwrap_or(State::ShutOff)
    }

    fn starts(&self) -> Vec<Uuid> {
        self.starts.lock().unwrap().clone()
    }
}

/// A link to it: each work has a thread of its own.
struct FakeLink(Arc<Fake>);

impl Hypervisor for FakeLink {
    fn attempt(&self, order: Order) -> Attempting {
        let fake = Arc::clone(&self.0);
        let (work, result) = session::queue(order);
        std::thread::spawn(move || work(&*fake));
        result
    }

    fn waiting(&self) -> usize {
        0
    }

    fn is_alive(&self) -> bool {
        Session::is_alive(&*self.0)
    }
}

impl Session for Fake {
    fn state(&self, uuid: Uuid) -> Result<State, Error> {
        self.alive()?;
        let state = self.state_of(uuid);
        self.looks.fetch_add(1, Ordering::SeqCst);
        Ok(state)
    }

    fn start(&self, uuid: Uuid) -> Result<(), Error> {
        self.starts.lock().unwrap().push(uuid);
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| held.contains(&uuid)).unwrap());
        let restored = *self.restored.lock().unwrap();
        let before = self.state_of(uuid);
        if !matches!(before, State::ShutOff | State::Saved) {
            self.alive()?;
            return Err(Error::Call {
                action: "start the domain",
                message: format!("it is {before}"),
                advice: "",
            });
        }
        self.states.lock().unwrap().insert(uuid, restored);
        self.alive()
    }

    fn resume(&self, uuid: Uuid) -> Result<(), Error> {
        self.run("resume", uuid)
    }

    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), Error> {
        self.run("wake up", uuid)
    }

    fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }
}

impl Fake {
    fn run(&self, call: &'static str, uuid: Uuid) -> Result<(), Error> {
        self.alive()?;
        self.calls.lock().unwrap().push(call);
        self.states.lock().unwrap().insert(uuid, State::Running);
        Ok(())
    }

    fn alive(&self) -> Result<(), Error> {
        let lost = || Error::NotConnected;
        if self.is_alive() { Ok(()) } else { Err(lost()) }
    }

    fn set(&self, number: u8, state: State) {
        self.states.lock().unwrap().insert(uuid(number), state);
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }
}

const URI: &str = "fake:///";

struct Bench {
    actor: tokio::task::JoinHandle<()>,
    packets: mpsc::Sender<NewPacket>,
    lost: LostPackets,
    requests: Requests,
    updates: mpsc::Sender<Update>,
    finished: broadcast::Receiver<Arc<Decision>>,
    macs: watch::Receiver<Macs>,
    status: watch::Receiver<Status>,
    fetches: mpsc::Receiver<PasswordRequest>,
}

fn uuid(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}

fn mac(last: u8) -> MacAddr {
    MacAddr::new([0x52, 0x54, 0, 0, 0, last])
}

fn id(number: u8) -> Id {
    Id { connection: URI.into(), uuid: uuid(number) }
}

fn domain(number: u8, macs: &[u8]) -> Domain {
    let macs = macs.iter().copied().map(mac).collect();
    Domain { id: id(number), name: format!("vm{number}"), macs, opt_in: false, state: State::ShutOff }
}

fn rules(patterns: &[&str]) -> Policy {
    let text: String = patterns.iter().map(|it| format!("[[allow]]\ndomain = {it:?}\n")).collect();
    policy(&text)
}

/// By these rules, and without a cool-down.
fn policy(text: &str) -> Policy {
    #[derive(Deserialize)]
    struct File {
        allow: Vec<Rule>,
    }
    let rules = Rules::new(toml::from_str::<File>(text).unwrap().allow, true);
    let times = Times { cool_down: Duration::ZERO, ..Times::default() };
    Policy { rules, times, ..Policy::default() }
}

fn up(hypervisor: &Arc<Fake>, domains: Vec<Domain>) -> Update {
    let hypervisor: Arc<Fake> = Arc::clone(hypervisor);
    let read = |domain: Domain| Domain { state: hypervisor.state_of(domain.id.uuid), ..domain };
    let domains = domains.into_iter().map(read).collect();
    Update::Up(URI.into(), Arc::new(FakeLink(hypervisor)), domains)
}

/// An actor with these domains, all of which may be woken.
async fn bench(hypervisor: &Arc<Fake>, domains: Vec<Domain>) -> Bench {
    let bench = away(rules(&["vm*"]));
    bench.update(up(hypervisor, domains)).await;
    bench
}

/// An actor whose hypervisor is away.
fn away(policy: Policy) -> Bench {
    remembering(policy, StateFile::default(), crate::engine::state_file::SavedState::default())
}

fn remembering(policy: Policy, memory: StateFile, state: crate::engine::state_file::SavedState) -> Bench {
    let (packets, packets_out) = mpsc::channel(16);
    let (requests, requests_out) = mpsc::channel(16);
    let (updates, updates_out) = mpsc::channel(16);
    let (finished_in, finished) = broadcast::channel(16);
    let (macs_in, macs) = watch::channel(Macs::default());
    let (status_in, status) = watch::channel(Status::default());
    let (fetches_in, fetches) = mpsc::channel(16);
    let lost = LostPackets::default();
    let outputs = Outputs {
        decisions: finished_in,
        macs: macs_in,
        status: status_in,
        fetches: fetches_in,
        lost: lost.clone(),
    };
    let actor =
        Engine::new(vec![Endpoint::new::<Libvirt>(URI)], policy, outputs).with_saved_state(memory, state);
    let inputs = Inputs { packets: packets_out, requests: requests_out, updates: updates_out };
    let actor = tokio::spawn(actor.run(inputs));
    let requests = Requests::new(requests);
    Bench { actor, packets, lost, requests, updates, finished, macs, status, fetches }
}

impl Bench {
    async fn update(&self, update: Update) {
        assert!(self.updates.send(update).await.is_ok());
    }

    /// Returns when the actor has dealt with each packet and update that was sent.
    async fn settled(&self) {
        let is_read = || {
            self.packets.capacity() == self.packets.max_capacity()
                && self.updates.capacity() == self.updates.max_capacity()
        };
        while !is_read() {
            tokio::task::yield_now().await;
        }
        // It answers after what it has read before.
        self.requests.counts().await.unwrap();
    }

    async fn packet(&self, last: u8) {
        self.packet_on("br0", last).await;
    }

    async fn packet_on(&self, interface: &str, last: u8) {
        let details = PacketDetails { interface: Some(interface.to_owned()), ..PacketDetails::default() };
        self.announce(Packet { mac: mac(last), sequence: last.into(), details }).await;
    }

    async fn announce(&self, packet: Packet) {
        let position = Position::of(&packet);
        self.packets.send(NewPacket { packet, position }).await.unwrap();
    }

    async fn finished(&mut self) -> (u64, Outcome) {
        let finished = self.finished.recv().await.unwrap();
        (finished.subject.packet.as_ref().map_or(0, |packet| packet.sequence), finished.outcome)
    }

    async fn call(&self, last: u8) -> Result<Outcome, &'static str> {
        match self.requests.wake(WakeTarget::Mac(mac(last)), ROOT).await.unwrap() {
            WakeReply::Decided(finished) => Ok(finished.outcome),
            WakeReply::UnknownDomain => Err("unknown"),
            WakeReply::HypervisorAway(_) => Err("away"),
        }
    }
}

/// While a domain shuts down, the wake does not wait for its hypervisor: that does not count for `hold`.
#[tokio::test]
async fn a_wake_that_is_lost_tells_how_long_the_hypervisor_was_reachable() {
    let fake = Fake::new(&[(1, State::ShuttingDown)], &[]);
    let order = Order {
        uuid: uuid(1),
        terms: Terms { trigger: Trigger::Packet, paused: Paused::Resume, cool_down: None },
        shutdown_wait: Duration::from_secs(3600),
        called: false,
        known_off: false,
        expired: false,
    };
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(FakeLink(Arc::clone(&fake)));
    let wake = tokio::spawn(wake(hypervisor, order));
    let begin = Instant::now();
    fake.until_it_looks(1).await;
    let first = begin.elapsed();
    fake.until_it_looks(4).await;
    let seen = begin.elapsed().checked_sub(first).unwrap();
    fake.dead.store(true, Ordering::SeqCst);
    let End::Lost { called: false, reachable } = wake.await.unwrap() else { panic!("it was not lost") };
    assert!(reachable >= seen, "{reachable:?}, and the hypervisor has answered for {seen:?}");
}

#[tokio::test]
async fn a_packet_starts_the_domain_that_has_the_address() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1]), domain(2, &[2, 3])]).await;
    bench.packet(9).await;
    bench.packet(3).await;
    assert_eq!(bench.finished().await, (3, Outcome::Started), "the unknown address is no decision");
    bench.packet(2).await;
    assert_eq!(bench.finished().await, (2, Outcome::AlreadyRunning));
    assert_eq!(fake.starts(), [uuid(2)]);
}

#[tokio::test]
async fn two_wakes_under_way_for_one_domain_are_one() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut bench = bench(&fake, vec![domain(1, &[1, 2])]).await;
    bench.packet(1).await;
    fake.until_it_starts().await;
    bench.packet(2).await;
    let call = bench.call(1);
    let release = async {
        // Requests are taken in their order.
        bench.requests.counts().await.unwrap();
        fake.release();
    };
    assert_eq!(tokio::join!(call, release).0, Ok(Outcome::Started), "the caller shares the packet's wake");
    assert_eq!(bench.finished().await, (1, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(1)]);
    // The next one is a wake of its own.
    bench.packet(2).await;
    assert_eq!(bench.finished().await, (2, Outcome::AlreadyRunning));
}

#[tokio::test]
async fn a_slow_start_does_not_delay_another_domain() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[1]);
    let mut bench = bench(&fake, vec![domain(1, &[1]), domain(2, &[2])]).await;
    bench.packet(1).await;
    bench.packet(2).await;
    assert_eq!(bench.finished().await, (2, Outcome::Started));
    fake.release();
    assert_eq!(bench.finished().await, (1, Outcome::Started));
}

#[tokio::test]
async fn a_start_that_fails_because_it_runs_is_no_failure() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.packet(1).await;
    fake.until_it_starts().await;
    fake.states.lock().unwrap().insert(uuid(1), State::Running);
    fake.release();
    assert_eq!(bench.finished().await, (1, Outcome::AlreadyRunning));
}

#[tokio::test]
async fn a_call_needs_no_rule_and_a_packet_does() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::Crashed)], &[]);
    let mut bench =
        bench(&fake, vec![domain(1, &[1]), domain(2, &[2]), domain(3, &[4]), domain(4, &[4])]).await;
    bench.requests.set_policy(rules(&["other"])).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::NotAllowed));
    assert_eq!(bench.call(1).await, Ok(Outcome::Started));
    assert_eq!(bench.call(2).await, Ok(Outcome::Failed), "it has crashed");
    assert_eq!(bench.call(3).await, Err("unknown"));
    assert_eq!(bench.call(4).await, Ok(Outcome::Ambiguous));
    bench.requests.set_policy(rules(&["vm3"])).await;
    fake.states.lock().unwrap().insert(uuid(3), State::Running);
    assert_eq!(bench.call(4).await, Ok(Outcome::AlreadyRunning), "a rule names one of them");
}

#[tokio::test]
async fn what_is_known_stays_known_while_the_hypervisor_is_away() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.update(Update::Down(URI.into())).await;
    bench.packet(1).await;
    assert_eq!(bench.call(2).await, Err("away"), "perhaps there is one, nobody knows");
    let list = bench.requests.list(None).await.unwrap().unwrap();
    assert_eq!((list.len(), list[0].state), (1, State::Unknown));
    bench.update(up(&fake, vec![])).await;
    assert_eq!(bench.finished().await, (1, Outcome::Failed), "it was undefined meanwhile");
    assert_eq!(bench.call(1).await, Err("unknown"));
}

#[tokio::test]
async fn a_wake_is_held_until_the_hypervisor_is_back() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.update(Update::Down(URI.into())).await;
    bench.packet(1).await;
    bench.packet(1).await;
    bench.settled().await;
    let back = async {
        // Requests are taken in their order.
        bench.requests.counts().await.unwrap();
        bench.update(up(&fake, vec![domain(1, &[1])])).await;
    };
    assert_eq!(tokio::join!(bench.call(1), back).0, Ok(Outcome::Started));
    assert_eq!(bench.finished().await, (1, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(1)]);
}

#[tokio::test]
async fn a_packet_waits_for_the_first_list_of_domains() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = away(rules(&["vm*"]));
    bench.packet(9).await;
    bench.packet(1).await;
    assert_eq!(bench.requests.counts().await.unwrap().unknown, 0, "both may be for a domain");
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(bench.finished().await, (1, Outcome::Started));
    assert_eq!(bench.requests.counts().await.unwrap().unknown, 1);
}

#[tokio::test]
async fn a_wake_that_waits_for_too_long_expires() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut policy = rules(&["vm*"]);
    policy.times.hold = Duration::from_millis(50);
    let mut bench = away(policy);
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    bench.update(Update::Down(URI.into())).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::Expired));
    // So does one that was announced long ago.
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    let details = PacketDetails { boottime: Some(1), ..PacketDetails::default() };
    bench.announce(Packet { mac: mac(1), sequence: 2, details }).await;
    assert_eq!(bench.finished().await, (2, Outcome::Expired));
    assert!(fake.starts().is_empty());
}

#[tokio::test]
async fn a_later_packet_is_held_for_its_own_time() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut policy = rules(&["vm*"]);
    policy.times.hold = Duration::from_secs(60);
    let mut bench = away(policy);
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    bench.update(Update::Down(URI.into())).await;
    // The first one expires in a second.
    let early = clock::boottime().saturating_sub(59_000_000);
    let details = PacketDetails { boottime: Some(early), ..PacketDetails::default() };
    bench.announce(Packet { mac: mac(1), sequence: 1, details }).await;
    bench.packet(1).await;
    bench.settled().await;
    while clock::boottime() < early + 60_000_000 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(bench.finished().await, (1, Outcome::Started));
}

#[tokio::test]
async fn a_connection_that_is_lost_half_way_costs_nothing() {
    for done in [true, false] {
        let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
        let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
        bench.packet(1).await;
        fake.until_it_starts().await;
        fake.dead.store(true, Ordering::SeqCst);
        bench.update(Update::Down(URI.into())).await;
        fake.release();
        let state = if done { State::Running } else { State::ShutOff };
        let again = Fake::new(&[(1, state)], &[]);
        bench.settled().await;
        bench.update(up(&again, vec![domain(1, &[1])])).await;
        assert_eq!(bench.finished().await, (1, Outcome::Started));
        assert_eq!(again.starts().is_empty(), done, "it is judged by the state");
    }
}

#[tokio::test]
async fn resumes_wakes_up_and_leaves() {
    let user = State::Paused(Pause::User);
    let fake = Fake::new(&[(1, user), (2, State::Suspended), (3, State::MigratedAway)], &[]);
    let domains = vec![domain(1, &[1]), domain(2, &[2]), domain(3, &[3])];
    let mut bench = bench(&fake, domains).await;
    for (number, outcome) in [(1, Outcome::Resumed), (2, Outcome::Woken), (3, Outcome::MigratedAway)] {
        bench.packet(number).await;
        assert_eq!(bench.finished().await, (number.into(), outcome));
    }
    assert_eq!(fake.calls(), ["resume", "wake up"]);
    fake.set(1, user);
    bench.requests.set_policy(policy("[[allow]]\ndomain = \"*\"\npaused = \"leave\"")).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::NotAllowed));
    assert_eq!(bench.call(1).await, Ok(Outcome::Resumed), "the rules are for packets");
}

#[tokio::test]
async fn looks_before_it_starts_what_has_changed() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    fake.set(1, State::MigratedAway);
    bench.update(Update::Changing(id(1))).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::MigratedAway));
    assert!(fake.starts().is_empty());
    // What a wake has done itself, before any event tells it.
    bench.update(Update::Domain(domain(1, &[1]))).await;
    fake.set(1, State::ShutOff);
    for outcome in [Outcome::Started, Outcome::AlreadyRunning] {
        bench.packet(1).await;
        assert_eq!(bench.finished().await, (1, outcome));
    }
    assert_eq!(fake.starts(), [uuid(1)]);
}

#[tokio::test]
async fn a_domain_that_was_saved_while_paused_runs_after_its_start() {
    let fake = Fake::new(&[(1, State::Saved)], &[]);
    *fake.restored.lock().unwrap() = State::Paused(Pause::Migration);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.packet(1).await;
    let finished = bench.finished.recv().await.unwrap();
    assert_eq!(finished.outcome, Outcome::Started);
    assert_eq!(finished.reason, "it was shut off (saved), and paused when it was saved");
    assert_eq!(fake.calls(), ["resume"]);
}

#[tokio::test]
async fn waits_for_what_passes_and_decides_again() {
    let fake = Fake::new(&[(1, State::ShuttingDown), (2, State::Paused(Pause::Save))], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1]), domain(2, &[2])]).await;
    bench.packet(1).await;
    bench.packet(2).await;
    fake.until_it_looks(2).await;
    fake.set(1, State::ShutOff);
    assert_eq!(bench.finished().await, (1, Outcome::Started));
    fake.set(2, State::Running);
    assert_eq!(bench.finished().await, (2, Outcome::AlreadyRunning));
    let mut policy = rules(&["vm*"]);
    policy.times.shutdown_wait = Duration::from_millis(100);
    bench.requests.set_policy(policy).await;
    fake.set(1, State::ShuttingDown);
    assert_eq!(bench.call(1).await, Ok(Outcome::Failed), "it does not end");
}

#[tokio::test]
async fn only_a_success_cools_down_and_only_packets() {
    let fake = Fake::new(&[(1, State::Crashed)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    let mut policy = rules(&["vm*"]);
    policy.times.cool_down = Duration::from_millis(300);
    bench.requests.set_policy(policy).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::Failed));
    fake.set(1, State::ShutOff);
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::Started), "a failure is not remembered");
    let began = Instant::now();
    fake.set(1, State::ShutOff);
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::CoolingDown));
    tokio::time::sleep_until(began + Duration::from_millis(310)).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::Started), "the window does not slide");
    fake.set(1, State::ShutOff);
    assert_eq!(bench.call(1).await, Ok(Outcome::Started));
}

#[tokio::test]
async fn a_refused_copy_does_not_swallow_an_allowed_one() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.requests.set_policy(policy("[[allow]]\ndomain = \"*\"\ninterfaces = [\"br0\"]")).await;
    bench.packet_on("eth0", 1).await;
    bench.packet_on("br0", 1).await;
    bench.packet_on("eth0", 1).await;
    let mut outcomes = [bench.finished().await.1, bench.finished().await.1, bench.finished().await.1];
    outcomes.sort_by_key(|outcome| outcome.as_str());
    assert_eq!(outcomes, [Outcome::NotAllowed, Outcome::NotAllowed, Outcome::Started]);
    let history = bench.requests.history(u64::MAX, 2).await.unwrap();
    assert_eq!(history.len(), 2);
    let counts = bench.requests.counts().await.unwrap();
    assert_eq!(counts.outcomes, HashMap::from([(Outcome::NotAllowed, 2), (Outcome::Started, 1)]));
}

#[tokio::test]
async fn many_domains_with_one_address_are_told_in_part() {
    let fake = Fake::new(&[], &[]);
    let numbered = |number: u128| {
        let uuid = Uuid::from_u128(number);
        let id = Id { connection: URI.into(), uuid };
        Domain {
            id,
            name: format!("vm{number:04}"),
            macs: [mac(1)].into(),
            opt_in: false,
            state: State::ShutOff,
        }
    };
    let bench = bench(&fake, (0..2000).map(numbered).collect()).await;
    for _ in 0..1150 {
        bench.packet(1).await;
    }
    let counted =
        || async { bench.requests.counts().await.unwrap().outcomes.get(&Outcome::Ambiguous).copied() };
    while counted().await != Some(1150) {}
    let history = bench.requests.history(u64::MAX, usize::MAX).await.unwrap();
    assert_eq!(history.len(), 1000);
    for (_, finished) in &history {
        assert!(finished.reason.starts_with("\"vm0000\" of fake:/// and \"vm0001\" of"), "{finished}");
        assert!(finished.reason.contains(" and 1997 more are meant") && finished.size() < 1000, "{finished}");
    }
    let (would_wake, reason) = bench.requests.explain(mac(1), PacketDetails::default()).await.unwrap();
    assert!(!would_wake && reason.contains(" and 1997 more are meant") && reason.len() < 500, "{reason}");
    // The list comes in parts, each domain once.
    let mut ids: Vec<Id> = Vec::new();
    loop {
        let list = bench.requests.list(ids.last().cloned()).await.unwrap().unwrap();
        if list.is_empty() {
            break;
        }
        assert!(list.len() <= queries::LISTED);
        ids.extend(list.into_iter().map(|listed| listed.id));
    }
    assert_eq!(ids, (0..2000).map(|number| numbered(number).id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_copy_that_may_do_more_is_not_swallowed() {
    let fake = Fake::new(&[(1, State::Paused(Pause::Save))], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    let narrow = "[[allow]]\ndomain = \"*\"\ninterfaces = [\"eth0\"]\npaused = \"leave\"\n";
    bench.requests.set_policy(policy(&format!("{narrow}[[allow]]\ndomain = \"*\""))).await;
    bench.packet_on("eth0", 1).await;
    bench.packet_on("br0", 1).await;
    bench.settled().await;
    fake.until_it_looks(1).await;
    fake.set(1, State::Paused(Pause::User));
    assert_eq!(bench.finished().await, (1, Outcome::NotAllowed));
    assert_eq!(bench.finished().await, (1, Outcome::Resumed));
}

#[tokio::test]
async fn fetches_the_password_that_a_rule_asks_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "1.2.3.4").unwrap();
    let mut policy = policy(&format!("[[allow]]\ndomain = \"*\"\nsecure-on = {:?}", file.path()));
    policy.rules.read_passwords().unwrap();
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = away(policy);
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await.1, Outcome::BadPassword, "it has none");
    for (answer, outcome) in [
        (Ok(Password::Four([1, 2, 3, 5])), Outcome::BadPassword),
        (Err("forgotten".to_owned()), Outcome::BadPassword),
        (Ok(Password::Four([1, 2, 3, 4])), Outcome::Started),
    ] {
        let details = PacketDetails { secure_on: true, ..PacketDetails::default() };
        bench.announce(Packet { mac: mac(1), sequence: 5, details }).await;
        bench.fetches.recv().await.unwrap().answer(answer);
        assert_eq!(bench.finished().await, (5, outcome));
    }
}

/// A rule that asks for a password, and one that does not.
#[tokio::test]
async fn a_rule_without_a_password_allows_what_waits_for_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "1.2.3.4").unwrap();
    let secured = format!("[[allow]]\ndomain = \"*\"\nsecure-on = {:?}\n", file.path());
    let mut policy = policy(&format!("{secured}[[allow]]\ndomain = \"vm1\"\n"));
    policy.rules.read_passwords().unwrap();
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    let mut bench = away(policy);
    bench.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    let details = PacketDetails { secure_on: true, ..PacketDetails::default() };
    let explained = async |last| bench.requests.explain(mac(last), details.clone()).await.unwrap().1;
    assert!(explained(1).await.contains("if the password is right, and else by the rule domain = \"vm1\";"));
    assert!(explained(2).await.contains("if the password is right;"));
    // Nobody answers for the passwords of these.
    let packet = |last, sequence| Packet { mac: mac(last), sequence, details: details.clone() };
    for sequence in 1..=256 {
        bench.announce(packet(2, sequence)).await;
    }
    bench.announce(packet(2, 257)).await;
    assert_eq!(bench.finished().await, (257, Outcome::BadPassword));
    bench.announce(packet(1, 258)).await;
    assert_eq!(bench.finished().await, (258, Outcome::Started));
    assert_eq!(bench.lost.count(), 0);
}

#[tokio::test]
async fn wakes_by_name_and_explains() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let bench = bench(&fake, vec![domain(1, &[1])]).await;
    let details = PacketDetails::default();
    let (would_wake, reason) = bench.requests.explain(mac(1), details.clone()).await.unwrap();
    assert!(would_wake && reason.contains("vm*") && reason.contains("started"), "{reason}");
    let (would_wake, reason) = bench.requests.explain(mac(2), details).await.unwrap();
    assert!(!would_wake && reason.contains("virsh --connect fake:/// domiflist NAME"), "{reason}");
    assert!(fake.starts().is_empty(), "nothing is done");
    let answer = bench.requests.wake(WakeTarget::Domain("vm1".to_owned()), ROOT).await.unwrap();
    assert!(matches!(answer, WakeReply::Decided(finished) if finished.outcome == Outcome::Started));
    let answer = bench.requests.wake(WakeTarget::Domain("vm2".to_owned()), ROOT).await.unwrap();
    assert!(matches!(answer, WakeReply::UnknownDomain));
}

#[tokio::test]
async fn lists_what_is_known_and_when_it_was_woken() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let bench = bench(&fake, vec![domain(1, &[1])]).await;
    let list = bench.requests.list(None).await.unwrap().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].rule.as_deref(), Some("domain = \"vm*\""));
    assert_eq!((list[0].state, list[0].last_wake), (State::ShutOff, None));
    let before = clock::realtime();
    assert_eq!(bench.call(1).await, Ok(Outcome::Started));
    let woken = bench.requests.list(None).await.unwrap().unwrap()[0].last_wake.unwrap();
    assert!((before..=clock::realtime()).contains(&woken));
}

#[tokio::test]
async fn forgets_when_a_domain_that_is_gone_was_woken() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[2]);
    let both = || vec![domain(1, &[1]), domain(2, &[2])];
    let mut bench = bench(&fake, both()).await;
    assert_eq!(bench.call(1).await, Ok(Outcome::Started));
    assert_eq!(bench.finished().await.1, Outcome::Started);
    // One goes while it is started, the other one while the hypervisor is away.
    bench.packet(2).await;
    while fake.starts().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.update(Update::Gone(id(2))).await;
    bench.settled().await;
    fake.release();
    assert_eq!(bench.finished().await, (2, Outcome::Started));
    let last_wakes = async || {
        bench.settled().await;
        let list = bench.requests.list(None).await.unwrap().unwrap();
        list.iter().map(|listed| listed.last_wake.is_some()).collect::<Vec<_>>()
    };
    bench.update(Update::Domain(domain(2, &[2]))).await;
    assert_eq!(last_wakes().await, [true, false]);
    bench.update(Update::Down(URI.into())).await;
    bench.update(up(&fake, vec![])).await;
    bench.update(up(&fake, both())).await;
    assert_eq!(last_wakes().await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn tells_the_addresses_once_for_many_changes() {
    let fake = Fake::new(&[], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.macs.changed().await.unwrap();
    assert_eq!(**bench.macs.borrow_and_update(), BTreeSet::from([mac(1)]));
    assert_eq!(
        *bench.status.borrow_and_update(),
        Status { connections: vec![(URI.into(), true)], domains: 1 }
    );
    for number in 2..10 {
        bench.updates.send(Update::Domain(domain(number, &[number]))).await.ok().unwrap();
    }
    bench.updates.send(Update::Gone(id(1))).await.ok().unwrap();
    bench.macs.changed().await.unwrap();
    assert_eq!(**bench.macs.borrow_and_update(), (2..10).map(mac).collect::<BTreeSet<_>>());
    assert_eq!(bench.status.borrow_and_update().domains, 8);
    // A domain that changed otherwise is no news.
    bench
        .updates
        .send(Update::Domain(Domain { state: State::Running, ..domain(2, &[2]) }))
        .await
        .ok()
        .unwrap();
    tokio::time::sleep(GATHER * 2).await;
    assert!(!bench.macs.has_changed().unwrap());
}

#[tokio::test]
async fn the_next_process_takes_up_what_was_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let open = || StateFile::open_in(directory.path());
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[1]);
    let (memory, state) = open();
    let mut first = remembering(rules(&["vm*"]), memory, state);
    first.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    first.packet(2).await;
    assert_eq!(first.finished().await, (2, Outcome::Started));
    first.packet(1).await;
    fake.until_it_starts().await;
    while fake.starts().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The process ends here; the domain is as it was.
    let (memory, state) = open();
    assert_eq!(state.intents.len(), 1, "it was written down before the call");
    assert_eq!(state.position.sequence, 1);
    let again = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    let mut second = remembering(rules(&["vm*"]), memory, state);
    second.update(up(&again, vec![domain(1, &[1]), domain(2, &[2])])).await;
    assert_eq!(second.finished().await, (1, Outcome::Started));
    let _ = second.requests.counts().await.unwrap();
    assert_eq!(again.starts(), [uuid(1)], "what was done is not done again");
    assert!(open().1.intents.is_empty());
    fake.release();
}

/// Packets that no domain is for leave nothing else to write down, and are not decided about again.
#[tokio::test]
async fn the_next_process_knows_the_packets_that_were_for_nobody() {
    for orderly in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (memory, state) = StateFile::open_in(directory.path());
        let bench = remembering(rules(&["vm*"]), memory, state);
        bench.update(up(&Fake::new(&[], &[]), vec![domain(1, &[1])])).await;
        bench.packet(7).await;
        bench.settled().await;
        if orderly {
            bench.requests.save_state().await;
            assert_eq!(StateFile::read_saved(directory.path()).position.sequence, 7);
        }
        let written = async {
            while StateFile::read_saved(directory.path()).position.sequence < 7 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), written).await.expect("the position is written");
    }
}

#[tokio::test]
async fn what_was_under_way_in_two_crashes_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let (memory, state) = StateFile::open_in(directory.path());
    let first = remembering(rules(&["vm*"]), memory, state);
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    first.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    first.update(Update::Down(URI.into())).await;
    first.packet(1).await;
    // The answer comes after the packet was taken and written down.
    while StateFile::read_saved(directory.path()).intents.is_empty() {
        let _ = first.requests.counts().await;
    }
    drop(StateFile::open_in(directory.path()));
    let (memory, state) = StateFile::open_in(directory.path());
    assert_eq!((state.intents.len(), state.given_up.len()), (0, 1));
    let mut third = remembering(rules(&["vm*"]), memory, state);
    assert_eq!(third.finished().await, (1, Outcome::Failed));
    let history = third.requests.history(u64::MAX, 10).await.unwrap();
    assert!(history[0].1.reason.contains("crashed twice"), "{history:?}");
    third.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    third.packet(2).await;
    assert_eq!(third.finished().await, (2, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(2)], "the other one is not tried again");
}

#[tokio::test]
async fn packets_that_wait_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let (memory, state) = StateFile::open_in(directory.path());
    let first = remembering(rules(&["vm*"]), memory, state);
    first.packet(1).await;
    first.settled().await;
    let (memory, state) = StateFile::open_in(directory.path());
    assert_eq!(state.waiting.len(), 1);
    let mut second = remembering(rules(&["vm*"]), memory, state);
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    second.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(second.finished().await, (1, Outcome::Started));
}

#[tokio::test]
async fn packets_for_which_there_is_no_place_are_counted() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = away(rules(&["vm*"]));
    for sequence in 1..=300 {
        bench.announce(Packet { mac: mac(1), sequence, details: PacketDetails::default() }).await;
    }
    // 256 wait for the hypervisor.
    while bench.lost.count() < 44 {
        tokio::task::yield_now().await;
    }
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(bench.finished().await, (45, Outcome::Started), "the newest are kept");
    assert_eq!(bench.lost.count(), 44);
}

/// Waits until so many requests have reached the actor.
async fn until_they_wait(bench: &Bench) {
    // Requests are taken in order, and counts do not wait for domains.
    for _ in 0..2 {
        bench.requests.counts().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_the_start_waits_for_the_first_list() {
    let fake = Fake::new(&[(1, State::Running)], &[]);
    let bench = away(rules(&["vm*"]));
    let requests = bench.requests.clone();
    let answers = tokio::spawn(async move {
        let details = PacketDetails::default();
        tokio::join!(
            requests.list(None),
            requests.explain(mac(1), details),
            requests.wake(WakeTarget::Mac(mac(1)), ROOT)
        )
    });
    until_they_wait(&bench).await;
    assert!(!answers.is_finished());
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    let (list, explanation, answer) = answers.await.unwrap();
    assert_eq!(list.unwrap().unwrap().len(), 1);
    assert_eq!(
        explanation.unwrap(),
        (false, "\"vm1\" is allowed by the rule domain = \"vm*\"; it runs".to_owned())
    );
    assert!(matches!(answer.unwrap(), WakeReply::Decided(it) if it.outcome == Outcome::AlreadyRunning));
}

#[tokio::test(start_paused = true)]
async fn a_hypervisor_that_is_missing_is_named() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    for told in [true, false] {
        let bench = away(rules(&["vm*"]));
        if told {
            bench.update(Update::Down(URI.into())).await;
        }
        // Where nobody tells that there is no connection, it does not wait for long.
        assert_eq!(bench.requests.list(None).await.unwrap(), Err(URI.to_owned()));
        let explain = async |last| bench.requests.explain(mac(last), PacketDetails::default()).await.unwrap();
        let (would_wake, reason) = explain(1).await;
        assert!(!would_wake);
        assert!(reason.contains(URI) && reason.contains("would be held for up to 1m"), "{reason}");
        assert!(matches!(
            bench.requests.wake(WakeTarget::Mac(mac(1)), ROOT).await.unwrap(),
            WakeReply::HypervisorAway(missing) if missing == URI
        ));
        // It stays known while it is away.
        bench.update(up(&fake, vec![domain(1, &[1])])).await;
        bench.update(Update::Down(URI.into())).await;
        let (would_wake, reason) = explain(1).await;
        assert!(would_wake);
        assert!(reason.contains(URI) && reason.contains("would be held for up to 1m"), "{reason}");
        let list = bench.requests.list(None).await.unwrap().unwrap();
        assert_eq!((list.len(), list[0].state), (1, State::Unknown));
    }
}

#[tokio::test]
async fn requests_that_wait_are_bounded() {
    let bench = away(rules(&["vm*"]));
    let ask = || {
        tokio::spawn({
            let requests = bench.requests.clone();
            async move { requests.list(None).await }
        })
    };
    let waiting: Vec<_> = (0..early_requests::MOST).map(|_| ask()).collect();
    until_they_wait(&bench).await;
    assert_eq!(ask().await.unwrap().unwrap(), Err(URI.to_owned()), "one more is answered at once");
    assert!(waiting.iter().all(|it| !it.is_finished()));
}

/// An actor that takes up one wake, for which an earlier process had called the hypervisor long ago.
fn taking_up(directory: &std::path::Path, called: bool) -> Bench {
    let (mut memory, _) = StateFile::open_in(directory);
    let packet = Packet { mac: mac(1), sequence: 1, details: PacketDetails::default() };
    let subject = Subject::new(Some(mac(1)), Some(&domain(1, &[1])), None, Some(&packet));
    let intents = vec![SavedWake::new(&id(1), &subject, Paused::Resume, 1, called)];
    memory.save(&crate::engine::state_file::SavedState {
        intents,
        ..crate::engine::state_file::SavedState::default()
    });
    let (memory, state) = StateFile::open_in(directory);
    remembering(rules(&["vm*"]), memory, state)
}

#[tokio::test]
async fn the_state_decides_before_a_wake_expires() {
    let starting = State::Paused(Pause::StartingUp);
    for (state, outcome) in
        [(State::Running, Outcome::Started), (starting, Outcome::Started), (State::ShutOff, Outcome::Expired)]
    {
        let fake = Fake::new(&[(1, state)], &[]);
        let directory = tempfile::tempdir().unwrap();
        let mut bench = taking_up(directory.path(), true);
        until_they_wait(&bench).await;
        assert!(bench.finished.try_recv().is_err(), "nobody knows yet what came of it");
        bench.update(up(&fake, vec![domain(1, &[1])])).await;
        if state == starting {
            bench.update(Update::Changing(id(1))).await;
            fake.set(1, State::Running);
        }
        assert_eq!(bench.finished().await, (1, outcome), "{state}");
        assert!(fake.starts().is_empty(), "it is too late");
    }
    // Nothing was done for the other one.
    let directory = tempfile::tempdir().unwrap();
    let mut bench = taking_up(directory.path(), false);
    assert_eq!(bench.finished().await, (1, Outcome::Expired));
}

#[tokio::test]
async fn a_wake_whose_reply_was_lost_does_not_expire_before_its_state_is_known() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut policy = rules(&["vm*"]);
    policy.times.hold = Duration::from_millis(50);
    let mut bench = away(policy);
    bench.update(up(&fake, vec![domain(1, &[1])])).await;
    bench.packet(1).await;
    fake.until_it_starts().await;
    fake.dead.store(true, Ordering::SeqCst);
    bench.update(Update::Down(URI.into())).await;
    fake.release();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(bench.finished.try_recv().is_err(), "nobody knows yet what came of it");
    let again = Fake::new(&[(1, State::Running)], &[]);
    bench.update(up(&again, vec![domain(1, &[1])])).await;
    assert_eq!(bench.finished().await, (1, Outcome::Started));
}
