//! Faults that a test injects, and the requests that the server received.

use super::access::Access;
use crate::kubernetes::status::Failure;

/// Which requests a fault affects.
#[derive(Debug, Clone, Default)]
pub struct Matching {
    verb: Option<String>,
    resource: Option<String>,
}

impl Matching {
    /// All requests.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Requests with this verb for this resource, such as `update` and `virtualmachines/start`.
    #[must_use]
    pub fn new(verb: &str, resource: &str) -> Self {
        Self { verb: Some(verb.to_owned()), resource: Some(resource.to_owned()) }
    }

    fn matches(&self, access: &Access) -> bool {
        self.verb.as_ref().is_none_or(|verb| *verb == access.verb)
            && self.resource.as_ref().is_none_or(|resource| *resource == access.resource)
    }
}

/// What the server does instead of answering a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It replies with an error.
    Reply(Failure),
    /// It carries the request out, but closes the connection instead of replying.
    LoseReply,
    /// It closes the connection without carrying the request out.
    Close,
    /// It does not reply until the client gives up.
    Hang,
}

/// How the server ends open watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// As at a timeout: after the last event.
    Between,
    /// The connection is lost in the middle of an event.
    MidEvent,
}

/// How the server reports that a watch's revision has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// HTTP status 200, with one `ERROR` event.
    Event,
    /// HTTP status 410.
    Status,
}

/// The faults that wait for a request.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pending: Vec<(Matching, Fault, usize)>,
}

impl Faults {
    pub(super) fn add(&mut self, matching: Matching, fault: Fault, times: usize) {
        self.pending.push((matching, fault, times));
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// Removes and returns the fault for a request.
    pub(super) fn take(&mut self, access: &Access) -> Option<Fault> {
        let (_, fault, times) = self.pending.iter_mut().find(|(matching, ..)| matching.matches(access))?;
        *times = times.saturating_sub(1);
        let fault = fault.clone();
        self.pending.retain(|(.., times)| *times > 0);
        Some(fault)
    }
}

/// A request that the server received.
#[derive(Debug, Clone)]
pub struct Record {
    /// The operation.
    pub access: Access,
    /// The path and the query.
    pub uri: String,
    /// The body, if it is JSON. Null otherwise.
    pub body: serde_json::Value,
    /// The user. `None` if the token is unknown.
    pub user: Option<String>,
    /// The HTTP status of the reply, or 0 if there was none.
    pub status: u16,
}
