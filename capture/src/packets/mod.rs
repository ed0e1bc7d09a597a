//! Decisions about captured packets, and the queues and rings that store them. These modules perform no I/O.

pub mod difference;
pub mod interest;
pub mod key;
pub mod ledger;
pub mod log;
pub mod queue;
pub mod recent;
pub mod ring;
pub mod store;
