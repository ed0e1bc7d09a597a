//! The policy: which packets wake which domains.

pub mod alias;
pub mod decision;
pub mod origin;
pub mod rules;
pub mod secure_on;

use std::path::PathBuf;
use std::time::Duration;

use alias::Alias;
use rules::Rules;

/// The part of the configuration that decisions depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The allowlist for packets.
    pub rules: Rules,
    /// Additional MAC addresses of domains.
    pub aliases: Vec<Alias>,
    /// The names or UUIDs of the domains that are started once after each boot.
    pub autostart: Vec<String>,
    /// How long wakes wait, and how long packets are ignored.
    pub timing: Timing,
    /// The administrator's configuration file, for log messages.
    pub file: PathBuf,
}

/// How long wakes wait, and how long packets are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a wake waits for its hypervisor.
    pub hold: Duration,
    /// How long a wake waits for a domain that is shutting down.
    pub shutdown_wait: Duration,
    /// How long packets for a domain are ignored after a successful wake.
    pub cool_down: Duration,
    /// How long the start of a domain of a cluster can take.
    pub start_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            hold: minute,
            shutdown_wait: minute,
            cool_down: Duration::from_secs(5),
            start_wait: 10 * minute,
        }
    }
}
