//! Switches a monitor to a domain, and back to the host, with ddcutil(1).

pub mod ddcutil;
pub mod saved;
