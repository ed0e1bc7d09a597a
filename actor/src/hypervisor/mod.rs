//! What runs VMs, as the rest of the actor sees it: one small trait, behind which libvirt stands.

mod events;
pub mod libvirt;
mod link;
mod regime;
mod state;

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::Error;

pub use link::{Update, keep};
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

/// A connection to what runs VMs.
///
/// Every method may block, for as long as starting a VM takes: call it through [`blocking`]. Several
/// threads may call at once; a slow call does not hold up another.
pub trait Hypervisor: Send + Sync + 'static {
    /// All domains. One that cannot be read is logged and left out.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn domains(&self) -> Result<Vec<Domain>, Error>;

    /// One domain; `None` if there is none any more.
    ///
    /// # Errors
    /// If it cannot be read.
    fn domain(&self, uuid: Uuid) -> Result<Option<Domain>, Error>;

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

    /// Whether the connection is there, as far as it knows without asking.
    fn is_alive(&self) -> bool;
}

/// What a connection tells by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Something about this domain changed: it is to be looked at again.
    Domain(Uuid),
    /// The connection is lost.
    Closed(&'static str),
}

/// Calls a hypervisor on a thread of its own.
///
/// # Errors
/// Those of the call.
pub async fn blocking<T: Send + 'static>(
    hypervisor: &Arc<dyn Hypervisor>,
    call: impl FnOnce(&dyn Hypervisor) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let hypervisor = Arc::clone(hypervisor);
    tokio::task::spawn_blocking(move || call(hypervisor.as_ref())).await.map_err(Error::Interrupted)?
}
