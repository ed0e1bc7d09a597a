//! The hypervisors that run domains, as seen by the engine.
//!
//! A [`Driver`] connects to one kind of hypervisor. A program supplies it. A [`Keeper`] maintains one connection of
//! a driver and sends an [`Update`] for each change. While the connection is open, the engine attempts wakes through a
//! [`Hypervisor`].

mod error;
mod keeper;
mod request;
pub mod session;
mod step;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Domain, Id, Outcome, State};

pub use error::HypervisorError;
pub use keeper::{Commands, Connected, Decisions, Driver, Endpoint, Keeper, Updates};
pub use request::{AttemptRequest, Terms};
pub use step::{Call, next_call};

/// A change to a connection or its domains.
pub enum Update {
    /// The connection with this URI is open, and has these domains.
    Up(Arc<str>, Arc<dyn Hypervisor>, Vec<Domain>),
    /// This domain is changing: its known state is unreliable until the next update about it.
    Changing(Id),
    /// This domain has started or was resumed.
    Running(Id),
    /// This domain is new or has changed.
    Domain(Domain),
    /// This domain no longer exists.
    Gone(Id),
    /// The hypervisor with this URI is unavailable: the connection was lost, or the first attempt
    /// failed or is taking a long time.
    Down(Arc<str>),
    /// The connection to this URI failed or was lost, for this reason.
    Failed(Arc<str>, String),
}

/// An open connection to a hypervisor.
pub trait Hypervisor: Send + Sync + 'static {
    /// Starts an attempt to wake a domain, and returns at once. Attempts begin in the order of these calls.
    ///
    /// The attempt continues even if the future is dropped.
    fn attempt(&self, request: AttemptRequest) -> AttemptFuture;

    /// The number of queued attempts.
    fn queued(&self) -> usize;

    /// Whether the connection appears to be open. This does not call the hypervisor.
    fn is_alive(&self) -> bool;
}

/// An attempt in progress. The result includes how long the attempt was queued. The result is `None` if the connection
/// was lost before the attempt began.
pub type AttemptFuture = Pin<Box<dyn Future<Output = Option<(Duration, AttemptResult)>> + Send>>;

/// The result of an attempt to wake a domain.
#[derive(Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The wake has this outcome, for this reason.
    Done(Outcome, String),
    /// The domain is off, and the wake has expired.
    Expired,
    /// The connection was lost.
    Lost {
        /// Whether the hypervisor was called: the domain may have been woken.
        called: bool,
    },
    /// A daemon that the domain needs is not running, for this reason. Another attempt can wake the domain when the daemon
    /// runs.
    Unready(String),
    /// The domain is in a transient state; another attempt may be able to wake it.
    Again {
        /// The state of the domain.
        state: State,
        /// The maximum time to wait for that state to end.
        wait: Duration,
        /// Whether the hypervisor was called without a known result.
        called: bool,
    },
}
