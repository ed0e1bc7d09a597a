//! The service's state file: what `wakevirtctl host status` shows, and what a restarted service continues with.

mod file;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{HostState, Record, Topology};
use crate::system::Part;

pub use file::{FILE, StateError, read, write};

/// The version of the state file.
pub const VERSION: u32 = 1;
/// The maximum number of failures. The oldest ones are removed.
pub const MAX_FAILURES: usize = 64;

/// The content of the state file, in JSON. Every user can read it.
///
/// ```json
/// {
///   "version": 1,
///   "records": [{"name": "win11", "phase": "started", "isolated": "2-7", …}],
///   "before": {"possible": "0-7", …},
///   "applied": {"overcommit": …, "units": ["wakevirt-domain@win11.target"]},
///   "is_changing": false,
///   "failed_units": [],
///   "failures": [{"domain": "win11", "part": "hugepages", "time": 1764324000, "message": "the host has only …"}]
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of this format, [`VERSION`].
    pub version: u32,
    /// The active domains that the configuration selects.
    pub records: Vec<Record>,
    /// The host's values before the first of these domains. `None` if there are none, and the host has these values.
    pub before: Option<Topology>,
    /// The state that the service last tried to establish.
    pub applied: HostState,
    /// Whether the service is changing the host to this state.
    pub is_changing: bool,
    /// The units that did not start. The service does not start them again while their domain is active.
    pub failed_units: BTreeSet<String>,
    /// What has failed, oldest first. At most [`MAX_FAILURES`].
    pub failures: Vec<Failure>,
}

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The domain that was prepared; `None` if the host could not be restored.
    pub domain: Option<String>,
    /// What failed; `None` if it was not a step, such as an event that could not be read.
    pub part: Option<Part>,
    /// The time, in seconds since 1970 (UTC).
    pub time: u64,
    /// What failed and why.
    pub message: String,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            records: Vec::new(),
            before: None,
            applied: HostState::default(),
            is_changing: false,
            failed_units: BTreeSet::new(),
            failures: Vec::new(),
        }
    }
}

impl State {
    /// Adds a failure.
    pub fn add_failure(&mut self, failure: Failure) {
        if self.failures.len() >= MAX_FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure);
    }
}
