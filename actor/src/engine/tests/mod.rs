//! Tests of the engine with a simulated hypervisor.

mod autostart;
mod batch;
mod early;
mod explain;
mod fake;
mod hold;
mod join;
mod log;
mod packets;
mod queries;
mod restart;
mod states;

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use serde::Deserialize;
use uuid::Uuid;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

use super::*;
use crate::engine::request::Requests;
use crate::hypervisor::{AttemptRequest, Commands, Hypervisor};
use crate::model::{Authority, Caller, Domain, Id, Outcome, State, Stop, WakeTarget};
use crate::policy::Timing;
use crate::policy::rules::{Metadata, Rule, Rules};
use fake::{Fake, FakeConnection};

const ROOT: Caller = Caller { user: 0, authority: Authority::User };
const URI: &str = "fake:///";

/// A running engine, and the other ends of its channels.
struct TestEngine {
    task: tokio::task::JoinHandle<()>,
    packets: mpsc::Sender<NewPacket>,
    lost: LostPackets,
    requests: Requests,
    updates: mpsc::Sender<Update>,
    decisions: broadcast::Receiver<Arc<Decision>>,
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
    Domain {
        id: id(number),
        name: format!("vm{number}"),
        macs,
        opt_in: false,
        labels: crate::model::Labels::default(),
        state: State::ShutOff,
        stop: Stop::Unknown,
    }
}

fn rules(patterns: &[&str]) -> Policy {
    let text: String = patterns.iter().map(|it| format!("[[allow]]\ndomain = {it:?}\n")).collect();
    policy(&text)
}

/// A policy with these rules and without a cool-down.
fn policy(text: &str) -> Policy {
    #[derive(Deserialize)]
    struct AllowRules {
        allow: Vec<Rule>,
    }
    let rules = Rules::new(toml::from_str::<AllowRules>(text).unwrap().allow, Metadata::Counts);
    let timing = Timing { cool_down: Duration::ZERO, ..Timing::default() };
    Policy { rules, timing, ..Policy::default() }
}

/// The update that reports that the hypervisor is connected and has these domains.
fn up(hypervisor: &Arc<Fake>, domains: Vec<Domain>) -> Update {
    let hypervisor: Arc<Fake> = Arc::clone(hypervisor);
    let read = |domain: Domain| Domain { state: hypervisor.state_of(domain.id.uuid), ..domain };
    let domains = domains.into_iter().map(read).collect();
    Update::Up(URI.into(), Arc::new(FakeConnection(hypervisor)), domains)
}

/// Starts an engine with these domains. Rules allow all of them.
async fn start_with(hypervisor: &Arc<Fake>, domains: Vec<Domain>) -> TestEngine {
    let engine = start(rules(&["vm*"]));
    engine.update(up(hypervisor, domains)).await;
    engine
}

/// Starts an engine without a connection to its hypervisor.
fn start(policy: Policy) -> TestEngine {
    start_with_state(policy, StateFile::default(), SavedState::default())
}

fn start_with_state(policy: Policy, file: StateFile, state: SavedState) -> TestEngine {
    let (packets, packets_out) = mpsc::channel(16);
    let (requests, requests_out) = mpsc::channel(16);
    let (updates, updates_out) = mpsc::channel(16);
    let (decisions_in, decisions) = broadcast::channel(16);
    let (macs_in, macs) = watch::channel(Macs::default());
    let (status_in, status) = watch::channel(Status::default());
    let (fetches_in, fetches) = mpsc::channel(16);
    let lost = LostPackets::default();
    let outputs = Outputs {
        decisions: decisions_in,
        macs: macs_in,
        status: status_in,
        fetches: fetches_in,
        lost: lost.clone(),
    };
    let commands = Commands {
        list_domains: "fake domains".to_owned(),
        list_addresses: "fake addresses NAME".to_owned(),
    };
    let endpoints = vec![Endpoint { uri: URI.into(), commands }];
    let engine = Engine::new(endpoints, policy, outputs).with_saved_state(file, state);
    let inputs = Inputs { packets: packets_out, requests: requests_out, updates: updates_out };
    let task = tokio::spawn(engine.run(inputs));
    let requests = Requests::new(requests);
    TestEngine { task, packets, lost, requests, updates, decisions, macs, status, fetches }
}

impl TestEngine {
    async fn update(&self, update: Update) {
        assert!(self.updates.send(update).await.is_ok());
    }

    /// Waits until the engine has handled the packets and updates that were sent.
    async fn wait_until_idle(&self) {
        let is_received = || {
            self.packets.capacity() == self.packets.max_capacity()
                && self.updates.capacity() == self.updates.max_capacity()
        };
        while !is_received() {
            tokio::task::yield_now().await;
        }
        // The engine replies after it has handled what it received before.
        self.requests.counts().await.unwrap();
    }

    async fn send_packet(&self, last: u8) {
        self.send_packet_on("br0", last).await;
    }

    async fn send_packet_on(&self, interface: &str, last: u8) {
        let details = PacketDetails { interface: Some(interface.to_owned()), ..PacketDetails::default() };
        self.announce(Packet { mac: mac(last), sequence: last.into(), details }).await;
    }

    async fn announce(&self, packet: Packet) {
        let position = Position::of(&packet);
        self.packets.send(NewPacket { packet, position }).await.unwrap();
    }

    /// The sequence of the next decision's packet, and the outcome.
    async fn next_decision(&mut self) -> (u64, Outcome) {
        let decision = self.decisions.recv().await.unwrap();
        (decision.subject.packet.as_ref().map_or(0, |packet| packet.sequence), decision.outcome)
    }

    async fn call(&self, last: u8) -> Result<Outcome, &'static str> {
        match self.requests.wake(WakeTarget::Mac(mac(last)), ROOT).await.unwrap() {
            WakeReply::Decided(decision) => Ok(decision.outcome),
            WakeReply::UnknownDomain => Err("unknown"),
            WakeReply::HypervisorUnavailable(_) => Err("unavailable"),
        }
    }
}
