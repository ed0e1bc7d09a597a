//! What runs VMs, as the rest of the actor sees it: one small trait, behind which libvirt stands.

mod events;
pub mod libvirt;
mod link;
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
    pub uuid: Uuid,
    /// Its name; another domain may have had it before.
    pub name: String,
    /// The MAC addresses of its network interfaces, in its persistent and in its live definition.
    pub macs: BTreeSet<MacAddr>,
    /// What it does.
    pub state: State,
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
