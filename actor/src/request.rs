//! What can be asked of the actor, and its answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use wakevirt_protocol::MacAddr;

use crate::hypervisor::{Domain, State};
use crate::report::Finished;
use crate::rules::Rules;

/// What can be asked of the actor.
pub enum Request {
    /// Wake the domain that has this MAC address; the caller is authorised.
    Wake {
        /// The MAC address.
        mac: MacAddr,
        /// Who waits for the end.
        answer: oneshot::Sender<Answer>,
    },
    /// List the domains.
    List {
        /// Who waits for the list.
        answer: oneshot::Sender<Vec<Listed>>,
    },
    /// Decide by these rules from now on.
    Rules(Rules),
}

/// What came of a wake.
pub enum Answer {
    /// A decision about a domain.
    Finished(Arc<Finished>),
    /// No domain has the MAC address.
    Unknown,
    /// The hypervisor is away.
    Away,
}

/// A domain in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The hypervisor's URI.
    pub connection: String,
    /// The domain, as it was when it last changed.
    pub domain: Domain,
    /// What it does, as far as the hypervisor is there to tell.
    pub state: State,
    /// The rule that allows a packet to wake it, if any does.
    pub rule: Option<String>,
    /// When a wake of it last succeeded: CLOCK_REALTIME, in microseconds.
    pub last_wake: Option<u64>,
}

/// Where requests are sent to.
#[derive(Debug, Clone)]
pub struct Requests(mpsc::Sender<Request>);

impl Requests {
    /// Requests to who reads from the other end of this channel.
    #[must_use]
    pub const fn new(requests: mpsc::Sender<Request>) -> Self {
        Self(requests)
    }

    /// Wakes a domain; `None` if the actor has ended.
    pub async fn wake(&self, mac: MacAddr) -> Option<Answer> {
        let (answer, end) = oneshot::channel();
        self.0.send(Request::Wake { mac, answer }).await.ok()?;
        end.await.ok()
    }

    /// Lists the domains; `None` if the actor has ended.
    pub async fn list(&self) -> Option<Vec<Listed>> {
        let (answer, list) = oneshot::channel();
        self.0.send(Request::List { answer }).await.ok()?;
        list.await.ok()
    }

    /// Puts these rules in force.
    pub async fn rules(&self, rules: Rules) {
        // An actor that has ended needs none.
        let _ = self.0.send(Request::Rules(rules)).await;
    }
}
