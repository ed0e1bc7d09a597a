//! The next step of an attempt, for the state of the domain.

use std::time::Duration;

use super::{AttemptRequest, AttemptResult};
use crate::model::{Outcome, State};
use crate::policy::decision::{Action, select_action};

/// How long to wait for a domain that is paused while it is saved, dumped or migrated.
pub(super) const PAUSE_WAIT: Duration = Duration::from_secs(60);

/// A call that wakes a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Start a domain that is off.
    Start,
    /// Resume a paused domain.
    Resume,
    /// Wake a guest that has suspended itself.
    WakeUp,
}

impl Call {
    /// The outcome if the call succeeds.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Start => Outcome::Started,
            Self::Resume => Outcome::Resumed,
            Self::WakeUp => Outcome::Woken,
        }
    }
}

/// Returns the call that wakes a domain in this state.
///
/// # Errors
/// The result of the attempt, if the state does not require a call, or if the wake has expired or the domain is cooling
/// down.
pub fn next_call(request: &AttemptRequest, state: State) -> Result<Call, AttemptResult> {
    let called = request.called.is_possible();
    let call = match select_action(state, request.terms.handling.paused) {
        Action::Nothing(Outcome::AlreadyRunning, _) if called => {
            let reason = "it is running; the result of the call that started it was lost".to_owned();
            return Err(AttemptResult::Done(Outcome::Started, reason));
        }
        Action::Nothing(outcome, reason) => return Err(AttemptResult::Done(outcome, reason)),
        Action::AwaitOff => return Err(AttemptResult::Again { state, wait: request.shutdown_wait, called }),
        Action::AwaitPause => return Err(AttemptResult::Again { state, wait: PAUSE_WAIT, called }),
        Action::Start => Call::Start,
        Action::Resume => Call::Resume,
        Action::WakeUp => Call::WakeUp,
    };
    if request.expired {
        return Err(AttemptResult::Expired);
    }
    if request.terms.is_cooling_down() {
        let reason = "the cool-down after the last successful wake has not ended".to_owned();
        return Err(AttemptResult::Done(Outcome::CoolingDown, reason));
    }
    Ok(call)
}
