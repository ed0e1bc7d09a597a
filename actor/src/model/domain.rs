//! Domains, as their hypervisor last reported them.

use std::sync::Arc;

use uuid::Uuid;
use wakevirt_service::config::DomainPattern;

use super::{Labels, MacSet, State, Stop};

/// A domain, as last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its ID, which does not change while it is defined.
    pub id: Id,
    /// Its name. Another domain may have had the name before.
    pub name: String,
    /// The MAC addresses of its network interfaces, in its persistent and in its live definition.
    pub macs: MacSet,
    /// Whether its metadata allows packets to wake it.
    pub opt_in: bool,
    /// Its labels.
    pub labels: Labels,
    /// Its state when it was last read.
    pub state: State,
    /// If it was off then, why.
    pub stop: Stop,
}

impl Domain {
    /// Whether this pattern matches the domain's name or UUID.
    #[must_use]
    pub fn matches(&self, pattern: &DomainPattern) -> bool {
        pattern.matches(&self.name, Some(self.id.uuid))
    }
}

/// Identifies a domain. The hypervisor is part of it, because two hypervisors can have domains with the same UUID. The
/// default is the first of all IDs, and identifies no domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The hypervisor's URI.
    pub connection: Arc<str>,
    /// The domain's UUID.
    pub uuid: Uuid,
}
