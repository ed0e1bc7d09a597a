//! Requests that come before the hypervisors have listed their domains: as after bus activation, by the very call.

use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use crate::engine::request::Request;
use crate::model::WakeTarget;
use crate::policy::decision::Found;

/// For how long after the start requests wait for the first lists.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that may wait; what goes beyond is answered at once, by what is known.
pub(super) const MOST: usize = 64;

/// The requests.
pub(super) struct Early {
    requests: Vec<Request>,
    until: Instant,
}

impl Default for Early {
    fn default() -> Self {
        Self { requests: Vec::new(), until: Instant::now() + PATIENCE }
    }
}

impl Early {
    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

impl Engine {
    /// Answers the request, or has it wait for domains that it may be about.
    pub(super) fn request_or_wait(&mut self, request: Request) {
        let is_early = !self.hypervisors.are_settled() && Instant::now() < self.early.until;
        if is_early && self.early.requests.len() < MOST && self.hangs_on_domains(&request) {
            self.early.requests.push(request);
        } else {
            self.handle_request(request);
        }
    }

    fn hangs_on_domains(&self, request: &Request) -> bool {
        match request {
            Request::Explain { .. } | Request::List { .. } => true,
            Request::Wake { target: WakeTarget::Mac(mac), .. } => {
                matches!(self.index.find(*mac), Found::Nothing)
            }
            Request::Wake { target: WakeTarget::Domain(name), .. } => {
                matches!(self.index.find_domain(name), Found::Nothing)
            }
            Request::History { .. }
            | Request::Counts { .. }
            | Request::SetPolicy(_)
            | Request::SaveState { .. } => false,
        }
    }

    pub(super) fn answer_early_if_settled(&mut self) {
        if self.hypervisors.are_settled() {
            self.answer_early();
        }
    }

    /// Answers what has waited, by what is known now.
    pub(super) fn answer_early(&mut self) {
        for request in std::mem::take(&mut self.early.requests) {
            self.handle_request(request);
        }
    }
}
