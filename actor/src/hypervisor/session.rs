//! Attempts on a hypervisor with blocking calls: read the state of the domain, make the call that the state requires,
//! and read the state again.

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::step::{Call, PAUSE_WAIT, next_call};
use super::{AttemptFuture, AttemptRequest, AttemptResult, HypervisorError};
use crate::model::{Outcome, State, Stop};
use crate::policy::decision::{Action, is_restored_paused, select_action};
use crate::policy::rules::Paused;

/// One connection to a hypervisor that a single thread uses. Every method can block.
pub trait Session {
    /// The state of the domain.
    ///
    /// # Errors
    /// If the state cannot be read.
    fn state(&self, uuid: Uuid) -> Result<State, HypervisorError>;

    /// Why the domain, which is off, was switched off.
    ///
    /// # Errors
    /// If the reason cannot be read.
    fn last_stop(&self, uuid: Uuid) -> Result<Stop, HypervisorError>;

    /// Starts a domain that is off, and returns when it is running.
    ///
    /// # Errors
    /// If it does not start. Some hypervisors return an error for a domain that is already running.
    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Resumes a paused domain.
    ///
    /// # Errors
    /// If it cannot be resumed.
    fn resume(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Wakes a guest that has suspended itself.
    ///
    /// # Errors
    /// If it cannot be woken.
    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Whether the session appears to be usable. This does not call the hypervisor.
    fn is_alive(&self) -> bool;
}

/// Work for a thread with a session. It can take as long as the start of a domain.
pub type Work = Box<dyn FnOnce(&dyn Session) + Send>;

/// Returns an attempt as work for a thread, and its result. If the work is dropped, there is no result.
///
/// The whole attempt runs on one thread: switching threads between two calls would take half as long as a call.
#[must_use]
pub fn queue(request: AttemptRequest) -> (Work, AttemptFuture) {
    let queued = Instant::now();
    let (sender, result) = oneshot::channel();
    let work: Work = Box::new(move |session| {
        let waited = queued.elapsed();
        // The receiver is dropped when the service is about to exit.
        let _ = sender.send((waited, attempt(session, request.after(waited))));
    });
    (work, Box::pin(async move { result.await.ok() }))
}

fn attempt(session: &dyn Session, request: AttemptRequest) -> AttemptResult {
    let called = request.called.is_possible();
    let state = if request.known_off { Ok(State::ShutOff) } else { session.state(request.uuid) };
    let state = match state {
        Ok(state) => state,
        Err(error) => return failed(session, &error, called),
    };
    if matches!(state, State::ShutOff | State::Saved)
        && let Some(result) = lost_result(session, &request)
    {
        return result;
    }
    match next_call(&request, state) {
        Ok(call) => make_call(session, request, state, call),
        Err(result) => result,
    }
}

/// The result of the call that an earlier attempt made, if it can be recognised although the domain is off.
fn lost_result(session: &dyn Session, request: &AttemptRequest) -> Option<AttemptResult> {
    if !request.called.is_possible() {
        return None;
    }
    let stop = session.last_stop(request.uuid).unwrap_or(Stop::Unknown);
    let (outcome, reason) = match request.called.result(stop)? {
        Ok(()) => (Outcome::Started, "it was started, and is off again; the result of the call was lost"),
        Err(()) => (Outcome::Failed, "its start failed, and the reason was lost; wake it again"),
    };
    Some(AttemptResult::Done(outcome, reason.to_owned()))
}

fn make_call(session: &dyn Session, request: AttemptRequest, before: State, call: Call) -> AttemptResult {
    let AttemptRequest { uuid, terms, .. } = request;
    let outcome = call.outcome();
    let result = match call {
        Call::Start => session.start(uuid),
        Call::Resume => session.resume(uuid),
        Call::WakeUp => session.pm_wakeup(uuid),
    };
    if request.known_off && result.is_ok() {
        return AttemptResult::Done(outcome, format!("it was {before}"));
    }
    let after = session.state(uuid);
    match (result, after) {
        (Ok(()), Ok(after))
            if outcome == Outcome::Started
                && is_restored_paused(after)
                && terms.handling.paused == Paused::Resume =>
        {
            match (session.resume(uuid), session.state(uuid)) {
                (Ok(()), _) | (Err(_), Ok(State::Running)) => {
                    AttemptResult::Done(outcome, format!("it was {before}, and paused when it was saved"))
                }
                (Err(error), _) => failed(session, &error, true),
            }
        }
        (Ok(()), Ok(_)) => AttemptResult::Done(outcome, format!("it was {before}")),
        // The call succeeded; the next connection shows whether the domain is running.
        (Ok(()), Err(_)) if !session.is_alive() => AttemptResult::Lost { called: true },
        (Ok(()), Err(_)) => AttemptResult::Done(outcome, format!("it was {before}")),
        // Another client may have woken it in the meantime. The error code does not show that, because drivers differ.
        (Err(_), Ok(State::Running)) => {
            AttemptResult::Done(Outcome::AlreadyRunning, "another client has just woken it".to_owned())
        }
        (Err(_), Ok(after))
            if matches!(
                select_action(after, terms.handling.paused),
                Action::AwaitOff | Action::AwaitPause
            ) =>
        {
            AttemptResult::Again { state: before, wait: PAUSE_WAIT, called: false }
        }
        // Contrary to the known state, the domain was not off: its actual state requires a different call.
        (Err(_), Ok(after)) if request.known_off && after != State::ShutOff => {
            attempt(session, AttemptRequest { known_off: false, ..request })
        }
        (Err(error), _) => failed(session, &error, true),
    }
}

fn failed(session: &dyn Session, error: &HypervisorError, called: bool) -> AttemptResult {
    match error {
        _ if !session.is_alive() => AttemptResult::Lost { called },
        HypervisorError::Daemon { .. } => AttemptResult::Unready(error.to_string()),
        _ => AttemptResult::Done(Outcome::Failed, error.to_string()),
    }
}
