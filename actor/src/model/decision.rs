//! Decisions about wakes.

use super::{Outcome, Subject};

/// A decision about a wake, with its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What the decision is about.
    pub subject: Subject,
    /// How the wake ended.
    pub outcome: Outcome,
    /// The reason for the outcome.
    pub reason: String,
    /// When the decision was made: CLOCK_REALTIME, in microseconds.
    pub time: u64,
    /// The time from the announcer's timestamp of the packet to the end of the wake, in microseconds. `None` for a
    /// call.
    pub latency: Option<u64>,
}
