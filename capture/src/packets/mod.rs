//! Decisions about captured packets, and the queues and rings that store them. Nothing here does I/O.

pub mod interest;
pub mod key;
pub mod ledger;
pub mod log;
pub mod queue;
pub mod recent;
pub mod ring;
pub mod store;
