//! Which domains may be woken by which packets.

pub mod alias;
pub mod decision;
pub mod rules;
pub mod secure_on;

use std::path::PathBuf;
use std::time::Duration;

use alias::Alias;
use rules::Rules;

/// The longest URI of a hypervisor, in bytes.
pub(crate) const MAX_URI: usize = 1024;
/// What the actor decides by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What packets may wake.
    pub rules: Rules,
    /// MAC addresses that no definition tells.
    pub aliases: Vec<Alias>,
    /// How long things may take.
    pub times: Times,
    /// The file that the administrator writes rules to, for advice.
    pub file: PathBuf,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How long a wake waits for its hypervisor to come back.
    pub hold: Duration,
    /// How long a wake waits for a domain that is shutting down.
    pub shutdown_wait: Duration,
    /// How long packets do nothing for a domain after a wake of it has succeeded.
    pub cool_down: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { hold: minute, shutdown_wait: minute, cool_down: Duration::from_secs(5) }
    }
}
