//! Domains, as their hypervisor last described them.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use super::State;

/// A domain, as it was when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// What identifies it for as long as it is defined.
    pub id: Id,
    /// Its name; another domain may have had it before.
    pub name: String,
    /// The MAC addresses of its network interfaces, in its persistent and in its live definition.
    pub macs: BTreeSet<MacAddr>,
    /// Whether its own metadata allow packets to wake it.
    pub opt_in: bool,
    /// What it does.
    pub state: State,
}

/// What identifies a domain: two hypervisors may have domains of the same UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The hypervisor's URI.
    pub connection: Arc<str>,
    /// The domain's UUID.
    pub uuid: Uuid,
}
