//! The values that the modules of the actor exchange.

mod called;
mod decision;
mod domain;
mod labels;
mod mac_set;
mod packet;
mod program;
mod state;
mod wake;

pub use called::{Called, Stop};
pub use decision::Decision;
pub use domain::{Domain, Id};
pub use labels::Labels;
pub use mac_set::MacSet;
#[cfg(test)]
pub(crate) use packet::MAX_GAPS;
pub use packet::{Packet, Position};
pub use program::Program;
pub use state::{Pause, State};
pub use wake::GROUP;
pub(crate) use wake::ROOT;
pub use wake::{Authority, Caller, Outcome, Subject, Trigger, WakeTarget};
