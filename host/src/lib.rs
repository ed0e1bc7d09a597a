//! Prepares the host for its domains: huge pages, CPUs of their own, priority.
//!
//! Each module can use those before it in this list: [`model`] holds the values that the others exchange, [`definition`]
//! reads a domain's XML, [`config`] reads `host.toml`, and [`desired`] is the pure function from the records of active
//! domains to the state of the host. [`sleep`] says how domains can sleep with the host.

pub mod config;
pub mod definition;
pub mod desired;
pub mod model;
pub mod sleep;
