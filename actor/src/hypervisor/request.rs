//! The parameters of an attempt to wake a domain.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::model::{Called, Trigger};
use crate::policy::decision::is_cooling_down;
use crate::policy::rules::Handling;

/// How long the known state of a domain stays valid while an attempt is queued.
const STATE_LIFETIME: Duration = Duration::from_millis(100);

/// The request for one attempt to wake a domain.
#[derive(Debug, Clone, Copy)]
pub struct AttemptRequest {
    /// The domain.
    pub uuid: Uuid,
    /// The permissions and limits of the wake.
    pub terms: Terms,
    /// How long to wait for a domain that is shutting down.
    pub shutdown_wait: Duration,
    /// How long the start of a domain of a cluster can take.
    pub start_wait: Duration,
    /// Whether the hypervisor was already called for this wake, without a known result.
    pub called: Called,
    /// Whether the domain is known to be off without a saved state, so that the attempt does not need to read its state.
    /// If that is wrong, the start fails, and the attempt reads the state. A domain without a saved state is not paused
    /// after its start.
    pub known_off: bool,
    /// Whether the wake has expired. The state can still show that the domain was woken.
    pub expired: bool,
}

impl AttemptRequest {
    /// The same request, for an attempt that was queued for this long.
    #[must_use]
    pub fn after(self, queued: Duration) -> Self {
        Self { known_off: self.known_off && queued < STATE_LIFETIME, ..self }
    }
}

/// The permissions and limits of a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What requested the wake.
    pub trigger: Trigger,
    /// How paused and halted domains are handled.
    pub handling: Handling,
    /// When a wake of the domain last succeeded, and how long packets are ignored after that.
    pub cool_down: Option<(Instant, Duration)>,
}

impl Terms {
    /// Whether a wake with these terms does everything that a wake with the other terms would do.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let trigger = self.trigger != Trigger::Packet || other.trigger == Trigger::Packet;
        trigger && self.handling.covers(other.handling)
    }

    /// Whether the domain is cooling down.
    #[must_use]
    pub fn is_cooling_down(&self) -> bool {
        self.cool_down
            .is_some_and(|(success, window)| is_cooling_down(self.trigger, Some(success.elapsed()), window))
    }
}
