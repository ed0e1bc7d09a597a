use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};

use serde::Deserialize;
use virt::error::ErrorNumber;
use wakevirt_protocol::bus::PacketDetails;

use super::*;
use crate::Error;
use crate::hypervisor::{Domain, Pause, State};
use crate::request::Requests;
use crate::rules::Rule;

/// A hypervisor whose starts wait until they are let go.
struct Fake {
    states: Mutex<HashMap<Uuid, State>>,
    starts: Mutex<Vec<Uuid>>,
    held: Mutex<BTreeSet<Uuid>>,
    released: Condvar,
}

impl Fake {
    fn new(states: &[(u8, State)], held: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            states: Mutex::new(states.iter().map(|(number, state)| (uuid(*number), *state)).collect()),
            starts: Mutex::default(),
            held: Mutex::new(held.iter().map(|number| uuid(*number)).collect()),
            released: Condvar::new(),
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

    fn starts(&self) -> Vec<Uuid> {
        self.starts.lock().unwrap().clone()
    }
}

impl Hypervisor for Fake {
    fn domains(&self) -> Result<Vec<Domain>, Error> {
        unreachable!("the link asks, and there is none here")
    }

    fn domain(&self, _: Uuid) -> Result<Option<Domain>, Error> {
        unreachable!("the link asks, and there is none here")
    }

    fn state(&self, uuid: Uuid) -> Result<State, Error> {
        Ok(self.states.lock().unwrap()[&uuid])
    }

    fn start(&self, uuid: Uuid) -> Result<(), Error> {
        self.starts.lock().unwrap().push(uuid);
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| held.contains(&uuid)).unwrap());
        let before = self.states.lock().unwrap().insert(uuid, State::Running);
        if before == Some(State::Running) {
            let code = Some(ErrorNumber::InternalError);
            return Err(Error::Libvirt { doing: "start the domain", code, message: "it runs".to_owned() });
        }
        Ok(())
    }
}

struct Bench {
    packets: mpsc::Sender<Packet>,
    requests: Requests,
    updates: mpsc::Sender<Update>,
    finished: broadcast::Receiver<Arc<Finished>>,
    macs: watch::Receiver<Macs>,
    status: watch::Receiver<Status>,
}

fn uuid(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}

fn mac(last: u8) -> MacAddr {
    MacAddr::new([0x52, 0x54, 0, 0, 0, last])
}

fn domain(number: u8, macs: &[u8]) -> Domain {
    let macs = macs.iter().copied().map(mac).collect();
    Domain { uuid: uuid(number), name: format!("vm{number}"), macs, state: State::ShutOff }
}

fn rules(patterns: &[&str]) -> Rules {
    #[derive(Deserialize)]
    struct File {
        allow: Vec<Rule>,
    }
    let text: String = patterns.iter().map(|it| format!("[[allow]]\ndomain = {it:?}\n")).collect();
    Rules::new(toml::from_str::<File>(&text).unwrap().allow)
}

/// An actor with these domains, all of which may be woken.
async fn bench(hypervisor: &Arc<Fake>, domains: Vec<Domain>) -> Bench {
    let (packets, packets_out) = mpsc::channel(16);
    let (requests, requests_out) = mpsc::channel(16);
    let (updates, updates_out) = mpsc::channel(16);
    let (finished_in, finished) = broadcast::channel(16);
    let (macs_in, macs) = watch::channel(Macs::default());
    let (status_in, status) = watch::channel(Status::default());
    let outlets = Outlets { finished: finished_in, macs: macs_in, status: status_in };
    let actor = Actor::new("fake:///".to_owned(), rules(&["vm*"]), outlets);
    tokio::spawn(actor.run(Inlets { packets: packets_out, requests: requests_out, updates: updates_out }));
    let hypervisor = Arc::clone(hypervisor);
    assert!(updates.send(Update::Up(hypervisor, domains)).await.is_ok());
    Bench { packets, requests: Requests::new(requests), updates, finished, macs, status }
}

impl Bench {
    async fn packet(&self, last: u8) {
        let details = PacketDetails { interface: Some("br0".to_owned()), ..PacketDetails::default() };
        self.packets.send(Packet { mac: mac(last), sequence: last.into(), details }).await.unwrap();
    }

    async fn finished(&mut self) -> (u64, Outcome) {
        let finished = self.finished.recv().await.unwrap();
        (finished.subject.packet.as_ref().map_or(0, |packet| packet.sequence), finished.outcome)
    }

    async fn call(&self, last: u8) -> Result<Outcome, &'static str> {
        match self.requests.wake(mac(last)).await.unwrap() {
            Answer::Finished(finished) => Ok(finished.outcome),
            Answer::Unknown => Err("unknown"),
            Answer::Away => Err("away"),
        }
    }
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
        tokio::time::sleep(Duration::from_millis(50)).await;
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
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::Paused(Pause::User))], &[]);
    let mut bench =
        bench(&fake, vec![domain(1, &[1]), domain(2, &[2]), domain(3, &[4]), domain(4, &[4])]).await;
    bench.requests.rules(rules(&["other"])).await;
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::NotAllowed));
    assert_eq!(bench.call(1).await, Ok(Outcome::Started));
    assert_eq!(bench.call(2).await, Ok(Outcome::Failed), "it is paused");
    assert_eq!(bench.call(3).await, Err("unknown"));
    assert_eq!(bench.call(4).await, Ok(Outcome::Ambiguous));
    bench.requests.rules(rules(&["vm3"])).await;
    fake.states.lock().unwrap().insert(uuid(3), State::Running);
    assert_eq!(bench.call(4).await, Ok(Outcome::AlreadyRunning), "a rule names one of them");
}

#[tokio::test]
async fn what_is_known_stays_known_while_the_hypervisor_is_away() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.updates.send(Update::Down).await.ok().unwrap();
    bench.packet(1).await;
    assert_eq!(bench.finished().await, (1, Outcome::Failed));
    assert_eq!(bench.call(1).await, Err("away"));
    assert_eq!(bench.call(2).await, Err("away"), "perhaps there is one, nobody knows");
    let list = bench.requests.list().await.unwrap();
    assert_eq!((list.len(), list[0].state), (1, State::Unknown));
    bench.updates.send(Update::Up(fake, vec![])).await.ok().unwrap();
    assert_eq!(bench.call(1).await, Err("unknown"), "it was undefined meanwhile");
}

#[tokio::test]
async fn lists_what_is_known_and_when_it_was_woken() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let bench = bench(&fake, vec![domain(1, &[1])]).await;
    let list = bench.requests.list().await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].rule.as_deref(), Some("domain = \"vm*\""));
    assert_eq!((list[0].state, list[0].last_wake), (State::ShutOff, None));
    let before = now();
    assert_eq!(bench.call(1).await, Ok(Outcome::Started));
    let woken = bench.requests.list().await.unwrap()[0].last_wake.unwrap();
    assert!((before..=now()).contains(&woken));
}

#[tokio::test(start_paused = true)]
async fn tells_the_addresses_once_for_many_changes() {
    let fake = Fake::new(&[], &[]);
    let mut bench = bench(&fake, vec![domain(1, &[1])]).await;
    bench.macs.changed().await.unwrap();
    assert_eq!(**bench.macs.borrow_and_update(), BTreeSet::from([mac(1)]));
    assert_eq!(*bench.status.borrow_and_update(), Status { connected: true, domains: 1 });
    for number in 2..10 {
        bench.updates.send(Update::Domain(domain(number, &[number]))).await.ok().unwrap();
    }
    bench.updates.send(Update::Gone(uuid(1))).await.ok().unwrap();
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
