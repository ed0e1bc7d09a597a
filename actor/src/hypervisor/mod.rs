//! What runs VMs, as the rest of the actor sees it: two small traits, behind which libvirt stands.

pub mod libvirt;

use std::sync::Arc;

use uuid::Uuid;

use crate::Error;
use crate::model::{Domain, Id, State};

/// What the link tells.
pub enum Update {
    /// There is a connection to this URI, and these are all its domains.
    Up(Arc<str>, Arc<dyn Hypervisor>, Vec<Domain>),
    /// This domain is changing: what is known of it is not to be relied upon until it is told anew.
    Changing(Id),
    /// This domain is new, or changed.
    Domain(Domain),
    /// This domain is gone.
    Gone(Id),
    /// There is no connection to this URI: it is lost, or the first attempt has failed or takes long.
    Down(Arc<str>),
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
