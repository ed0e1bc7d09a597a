//! What can be asked of the actor, and its answers.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

use crate::engine::report::Decision;
use crate::model::{Caller, Id, Outcome, State, WakeTarget};
use crate::policy::Policy;

/// What can be asked of the actor.
pub enum Request {
    /// Wake a domain; the caller is authorised.
    Wake {
        /// Which one.
        target: WakeTarget,
        /// Who calls.
        caller: Caller,
        /// Who waits for the end.
        answer: oneshot::Sender<WakeReply>,
    },
    /// Say what would come of a packet, and do nothing.
    Explain {
        /// The MAC address in it.
        mac: MacAddr,
        /// What is known of it.
        details: PacketDetails,
        /// Who waits: whether it would wake, and why so.
        answer: oneshot::Sender<(bool, String)>,
    },
    /// List some domains, in the order of their ids.
    List {
        /// Those after this one.
        after: Option<Id>,
        /// Who waits for the list. Without any domain: the hypervisors that cannot be reached.
        answer: oneshot::Sender<Result<Vec<Listed>, String>>,
    },
    /// Tell the last decisions, the newest first.
    History {
        /// Those with a lower number than this.
        before: u64,
        /// How many at most.
        most: usize,
        /// Who waits for them, each with its number.
        answer: oneshot::Sender<Vec<(u64, Arc<Decision>)>>,
    },
    /// Tell how often what came of a wake.
    Counts {
        /// Who waits for them.
        answer: oneshot::Sender<Counts>,
    },
    /// Decide by this from now on.
    SetPolicy(Policy),
    /// Write down what is to outlive the process, which is about to end.
    SaveState {
        /// Who waits until it is written.
        answer: oneshot::Sender<()>,
    },
}

/// How often what came of a wake, since the actor was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Decisions about domains.
    pub outcomes: HashMap<Outcome, u64>,
    /// Packets for MAC addresses that no domain has.
    pub unknown: u64,
}

/// What came of a wake.
pub enum WakeReply {
    /// A decision about a domain.
    Decided(Arc<Decision>),
    /// There is no such domain.
    UnknownDomain,
    /// No domain that is known is meant, and these hypervisors cannot be reached.
    HypervisorAway(String),
}

/// A domain in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What identifies it.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Its first MAC addresses, aliases included.
    pub macs: Vec<MacAddr>,
    /// What it does, as far as the hypervisor is there to tell.
    pub state: State,
    /// The rule that allows a packet to wake it, if any does.
    pub rule: Option<String>,
    /// When a wake of it last succeeded: CLOCK_REALTIME, in microseconds.
    pub last_wake: Option<u64>,
}

/// Where requests are sent to. Each answer is `None` if the actor has ended.
#[derive(Debug, Clone)]
pub struct Requests(mpsc::Sender<Request>);

impl Requests {
    /// Requests to who reads from the other end of this channel.
    #[must_use]
    pub const fn new(requests: mpsc::Sender<Request>) -> Self {
        Self(requests)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, end) = oneshot::channel();
        self.0.send(request(answer)).await.ok()?;
        end.await.ok()
    }

    /// Wakes a domain for this caller.
    pub async fn wake(&self, target: WakeTarget, caller: Caller) -> Option<WakeReply> {
        self.ask(|answer| Request::Wake { target, caller, answer }).await
    }

    /// Says what would come of a packet: whether it would wake, and why so.
    pub async fn explain(&self, mac: MacAddr, details: PacketDetails) -> Option<(bool, String)> {
        self.ask(|answer| Request::Explain { mac, details, answer }).await
    }

    /// Lists the first domains after this one. Nothing comes after the last one. Where no domain is known: the
    /// hypervisors that cannot be reached.
    pub async fn list(&self, after: Option<Id>) -> Option<Result<Vec<Listed>, String>> {
        self.ask(|answer| Request::List { after, answer }).await
    }

    /// The last decisions with a lower number than this, the newest first.
    pub async fn history(&self, before: u64, most: usize) -> Option<Vec<(u64, Arc<Decision>)>> {
        self.ask(|answer| Request::History { before, most, answer }).await
    }

    /// How often what came of a wake.
    pub async fn counts(&self) -> Option<Counts> {
        self.ask(|answer| Request::Counts { answer }).await
    }

    /// Puts this in force.
    pub async fn set_policy(&self, policy: Policy) {
        // An actor that has ended needs none.
        let _ = self.0.send(Request::SetPolicy(policy)).await;
    }

    /// Writes down what is to outlive the process.
    pub async fn save_state(&self) {
        // An actor that has ended has nothing to add.
        let _ = self.ask(|answer| Request::SaveState { answer }).await;
    }
}
