//! Replies to `ListDomains`.

use super::Engine;
use crate::engine::report::truncated_name;
use crate::engine::request::ListedDomain;
use crate::model::{Domain, Id, State};

/// The maximum number of domains in one reply.
pub(super) const MAX_LISTED: usize = 256;
/// The maximum number of MAC addresses of a listed domain.
const MAX_LISTED_MACS: usize = 256;

impl Engine {
    /// Returns the first domains after this one, ordered by ID. If no domain is known, returns the unavailable
    /// hypervisors as an error.
    pub(super) fn list(&self, after: Option<&Id>) -> Result<Vec<ListedDomain>, String> {
        if let (0, Some(unavailable)) = (self.index.domains().len(), self.hypervisors.unavailable()) {
            return Err(unavailable);
        }
        let listed = self.index.after(after).take(MAX_LISTED).map(|entry| ListedDomain {
            id: entry.domain.id.clone(),
            name: truncated_name(&entry.domain.name),
            state: self.known_state(&entry.domain),
            rule: entry.macs.iter().find_map(|mac| self.policy.rules.allowed_by(&entry.domain, *mac)),
            last_wake: self.history.last_success_time(&entry.domain.id),
            macs: entry.macs.iter().take(MAX_LISTED_MACS).copied().collect(),
        });
        Ok(listed.collect())
    }

    /// The state of the domain, which is unknown while its hypervisor is unavailable.
    pub(super) fn known_state(&self, domain: &Domain) -> State {
        match self.hypervisors.get(&domain.id.connection) {
            Some(_) => domain.state,
            None => State::Unknown,
        }
    }
}
