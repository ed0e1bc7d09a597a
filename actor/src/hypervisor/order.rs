//! What an attempt to wake a domain is given.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::model::Trigger;
use crate::policy::decision::cools_down;
use crate::policy::rules::Paused;

/// How long the known state of a domain is relied upon while an attempt is queued.
const STATE_LIFETIME: Duration = Duration::from_millis(100);

/// An order to wake one domain.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// The domain.
    pub uuid: Uuid,
    /// What the wake may do.
    pub terms: Terms,
    /// How long to wait for a domain that is shutting down.
    pub shutdown_wait: Duration,
    /// Whether the hypervisor was called for this wake before, without a known result.
    pub called: bool,
    /// Whether the domain is known to be off with no saved state, so that the attempt need not read its state.
    /// If that is wrong, the start fails, and the attempt reads the state after all. A domain without a saved
    /// state is not paused after its start.
    pub known_off: bool,
    /// Whether it is too late to wake the domain. Its state can still show that it was woken.
    pub expired: bool,
}

impl Order {
    /// The same order, for an attempt that was queued for this time.
    #[must_use]
    pub fn after(self, queued: Duration) -> Self {
        Self { known_off: self.known_off && queued < STATE_LIFETIME, ..self }
    }
}

/// What a wake may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What requests the wake.
    pub trigger: Trigger,
    /// What to do with a domain that a user paused.
    pub paused: Paused,
    /// When a wake of the domain last succeeded, and how long packets are ignored after that.
    pub cool_down: Option<(Instant, Duration)>,
}

impl Terms {
    /// Whether a wake under these terms does everything that one under the other terms would do.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        let trigger = self.trigger == Trigger::Call || other.trigger == Trigger::Packet;
        trigger && (self.paused == Paused::Resume || other.paused == Paused::Leave)
    }

    /// Whether the domain is cooling down.
    #[must_use]
    pub fn cools_down(&self) -> bool {
        self.cool_down
            .is_some_and(|(success, window)| cools_down(self.trigger, Some(success.elapsed()), window))
    }
}
