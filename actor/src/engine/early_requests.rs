//! Requests that arrive before the hypervisors have listed their domains, such as the call that activates the
//! service.

use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use crate::engine::request::Request;
use crate::model::WakeTarget;
use crate::policy::decision::Found;

/// The time after the start of the engine during which requests wait for the first lists of domains.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of queued requests. Further requests are handled at once, with the domains that are known.
pub(super) const MAX_QUEUED: usize = 64;

/// The queued requests.
pub(super) struct EarlyRequests {
    queue: Vec<Request>,
    deadline: Instant,
}

impl Default for EarlyRequests {
    fn default() -> Self {
        Self { queue: Vec::new(), deadline: Instant::now() + TIMEOUT }
    }
}

impl EarlyRequests {
    /// The latest time at which the queued requests are handled; `None` if there are none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.queue.is_empty()).then_some(self.deadline)
    }
}

impl Engine {
    /// Handles the request, or queues it if it is about a domain that might not be known yet.
    pub(super) fn handle_or_queue(&mut self, request: Request) {
        let is_early = !self.hypervisors.are_settled() && Instant::now() < self.early_requests.deadline;
        let has_room = self.early_requests.queue.len() < MAX_QUEUED;
        if is_early && has_room && self.may_concern_unknown_domain(&request) {
            self.early_requests.queue.push(request);
        } else {
            self.handle_request(request);
        }
    }

    fn may_concern_unknown_domain(&self, request: &Request) -> bool {
        match request {
            Request::Explain { .. } | Request::ExplainRules { .. } | Request::List { .. } => true,
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

    /// Handles the queued requests if each hypervisor has listed its domains, or is unavailable.
    pub(super) fn handle_early_requests_if_settled(&mut self) {
        if self.hypervisors.are_settled() {
            self.handle_early_requests();
        }
    }

    /// Handles the queued requests with the domains that are known now.
    pub(super) fn handle_early_requests(&mut self) {
        for request in std::mem::take(&mut self.early_requests.queue) {
            self.handle_request(request);
        }
    }
}
