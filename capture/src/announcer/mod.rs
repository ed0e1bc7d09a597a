//! The announcer.
pub mod interest;
pub mod ledger;
pub mod limit;
pub mod recent;
pub mod ring;
