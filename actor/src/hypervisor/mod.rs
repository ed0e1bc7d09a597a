//! What runs VMs, as the rest of the actor sees it: two small traits, behind which libvirt stands.

mod changes;
mod events;
pub mod libvirt;
mod link;
mod monitor;
mod pool;
mod read;
mod regime;
mod state;

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::Error;

pub use link::{Link, Update};
pub use state::{Pause, State};

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

/// A link to what runs VMs, for as long as it is up.
pub trait Hypervisor: Send + Sync + 'static {
    /// Does this work with a session that nothing else uses meanwhile, as soon as one is free; what came
    /// first is done first. It returns at once. Where the link is lost before a session is free, the work
    /// is dropped.
    fn run(&self, work: Work);

    /// How much work waits for a session.
    fn waiting(&self) -> usize;

    /// Whether the link is up, as far as that is known without asking.
    fn is_alive(&self) -> bool;
}

/// Work that is done with a session. It may take as long as starting a VM does.
pub type Work = Box<dyn FnOnce(&dyn Session) + Send>;

/// What one wake has of a hypervisor while it is done. Every method may block.
pub trait Session {
    /// What the domain does now.
    ///
    /// # Errors
    /// If that cannot be told.
    fn state(&self, uuid: Uuid) -> Result<State, Error>;

    /// Starts a domain that is shut off, and returns when it runs.
    ///
    /// # Errors
    /// If it does not start. A domain that runs already is such an error with some hypervisors.
    fn start(&self, uuid: Uuid) -> Result<(), Error>;

    /// Lets a domain that is paused run.
    ///
    /// # Errors
    /// If it cannot.
    fn resume(&self, uuid: Uuid) -> Result<(), Error>;

    /// Wakes up a guest that has suspended itself.
    ///
    /// # Errors
    /// If it cannot.
    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), Error>;

    /// Whether the session can still be used, as far as that is known without asking.
    fn is_alive(&self) -> bool;
}
