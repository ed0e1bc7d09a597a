//! The values that the modules of the actor exchange.

mod domain;
mod packet;
mod state;
mod wake;

pub use domain::{Domain, Id};
#[cfg(test)]
pub(crate) use packet::MAX_GAPS;
pub use packet::{Packet, Position};
pub use state::{Pause, State};
pub use wake::{Authority, Caller, Outcome, Subject, Trigger, WakeTarget};
pub(crate) use wake::{GROUP, ROOT};
