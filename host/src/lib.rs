//! Prepares the host for its domains: huge pages, CPUs of their own, priority.
//!
//! Each module can use those before it in this list: [`model`] holds the values that the others exchange, [`sleep`] says
//! how domains can sleep with the host, [`definition`] reads a domain's XML, [`config`] reads `host.toml`, [`desired`] is
//! the pure function from the records of active domains to the state of the host, [`records`] changes the records by
//! events, [`system`] reads and changes the host's state, [`state`] is the service's state file, and [`daemon`] is the
//! service.

pub mod config;
pub mod daemon;
pub mod definition;
pub mod desired;
pub mod model;
pub mod records;
pub mod sleep;
pub mod state;
pub mod system;
