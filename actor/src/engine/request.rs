//! Requests to the engine, and its replies.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::explain::Explanation;

use crate::engine::latency::Latency;
use crate::engine::report::Decision;
use crate::engine::unknown::UnknownAddresses;
use crate::model::{Caller, Id, Outcome, State, WakeTarget};
use crate::policy::Policy;

/// A request to the engine.
pub enum Request {
    /// Wake a domain; the caller is authorised.
    Wake {
        /// The domain.
        target: WakeTarget,
        /// The caller.
        caller: Caller,
        /// Receives the outcome.
        reply: oneshot::Sender<WakeReply>,
    },
    /// Explain what a packet would do, without doing it.
    Explain {
        /// The MAC address in the packet.
        mac: MacAddr,
        /// The details of the packet.
        details: PacketDetails,
        /// Receives whether the packet would wake a domain, and the reason.
        reply: oneshot::Sender<(bool, String)>,
    },
    /// Explain what a packet would do, with all rules and their verdicts.
    ExplainRules {
        /// The MAC address in the packet.
        mac: MacAddr,
        /// The details of the packet.
        details: PacketDetails,
        /// Receives the explanation.
        reply: oneshot::Sender<Explanation>,
    },
    /// List some domains, ordered by ID.
    List {
        /// The list begins after this domain.
        after: Option<Id>,
        /// Receives the list. If no domain is known, receives the unavailable hypervisors.
        reply: oneshot::Sender<Result<Vec<ListedDomain>, String>>,
    },
    /// Return the most recent decisions, newest first.
    History {
        /// Only decisions with a lower number than this are returned.
        before: u64,
        /// The maximum number of decisions.
        limit: usize,
        /// Receives the decisions with their numbers.
        reply: oneshot::Sender<Vec<(u64, Arc<Decision>)>>,
    },
    /// Return how often each outcome has occurred.
    Counts {
        /// Receives the counts.
        reply: oneshot::Sender<Counts>,
    },
    /// Use this policy from now on.
    SetPolicy(Policy),
    /// Save the state for the next process; this one is about to exit.
    SaveState {
        /// Receives a value when the state is saved.
        reply: oneshot::Sender<()>,
    },
}

/// How often each outcome has occurred since the actor started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Decisions about domains.
    pub outcomes: HashMap<Outcome, u64>,
    /// Packets for MAC addresses that no domain has.
    pub unknown: u64,
    /// The unknown MAC addresses for which packets arrived most recently.
    pub unknown_addresses: UnknownAddresses,
    /// How long successful wakes triggered by packets took.
    pub latency: Latency,
}

/// The result of a requested wake.
pub enum WakeReply {
    /// A decision about a domain.
    Decided(Arc<Decision>),
    /// There is no such domain.
    UnknownDomain,
    /// No known domain matches, and these hypervisors are unavailable.
    HypervisorUnavailable(String),
}

/// A domain in the reply to `ListDomains`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDomain {
    /// The ID.
    pub id: Id,
    /// The name.
    pub name: String,
    /// The first MAC addresses, including aliases.
    pub macs: Vec<MacAddr>,
    /// The state; unknown if the hypervisor is unavailable.
    pub state: State,
    /// The rule that allows packets to wake the domain, if there is one.
    pub rule: Option<String>,
    /// When a wake of the domain last succeeded: CLOCK_REALTIME, in microseconds.
    pub last_wake: Option<u64>,
}

/// Sends requests to the engine. Each reply is `None` if the engine has exited.
#[derive(Debug, Clone)]
pub struct Requests(mpsc::Sender<Request>);

impl Requests {
    /// Sends requests to the receiver of this channel.
    #[must_use]
    pub const fn new(requests: mpsc::Sender<Request>) -> Self {
        Self(requests)
    }

    async fn send<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, receiver) = oneshot::channel();
        self.0.send(request(reply)).await.ok()?;
        receiver.await.ok()
    }

    /// Wakes a domain for this caller.
    pub async fn wake(&self, target: WakeTarget, caller: Caller) -> Option<WakeReply> {
        self.send(|reply| Request::Wake { target, caller, reply }).await
    }

    /// Explains what a packet would do: whether it would wake a domain, and the reason.
    pub async fn explain(&self, mac: MacAddr, details: PacketDetails) -> Option<(bool, String)> {
        self.send(|reply| Request::Explain { mac, details, reply }).await
    }

    /// Explains what a packet would do, with all rules and their verdicts.
    pub async fn explain_rules(&self, mac: MacAddr, details: PacketDetails) -> Option<Explanation> {
        self.send(|reply| Request::ExplainRules { mac, details, reply }).await
    }

    /// Lists the first domains after this one; the list is empty after the last domain. If no domain is known, returns
    /// the unavailable hypervisors.
    pub async fn list(&self, after: Option<Id>) -> Option<Result<Vec<ListedDomain>, String>> {
        self.send(|reply| Request::List { after, reply }).await
    }

    /// Returns the most recent decisions with a lower number than this, newest first.
    pub async fn history(&self, before: u64, limit: usize) -> Option<Vec<(u64, Arc<Decision>)>> {
        self.send(|reply| Request::History { before, limit, reply }).await
    }

    /// Returns how often each outcome has occurred.
    pub async fn counts(&self) -> Option<Counts> {
        self.send(|reply| Request::Counts { reply }).await
    }

    /// Replaces the policy.
    pub async fn set_policy(&self, policy: Policy) {
        // An engine that has exited needs no policy.
        let _ = self.0.send(Request::SetPolicy(policy)).await;
    }

    /// Saves the state for the next process.
    pub async fn save_state(&self) {
        // An engine that has exited has no further state.
        let _ = self.send(|reply| Request::SaveState { reply }).await;
    }
}
