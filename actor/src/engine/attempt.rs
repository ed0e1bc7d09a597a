//! One wake: a series of attempts until the wake has an outcome, expires or loses its connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::hypervisor::{AttemptRequest, AttemptResult, Hypervisor};
use crate::model::Outcome;

/// The time between two attempts while the domain is in a transient state.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// If a wake was queued for longer, its reason says so.
const REPORTED_QUEUE_TIME: Duration = Duration::from_secs(1);

/// How a wake ended.
#[derive(Debug, PartialEq, Eq)]
pub enum WakeResult {
    /// The wake has this outcome, for this reason.
    Done(Outcome, String),
    /// The wake has expired, and the domain was not woken.
    Expired,
    /// A daemon that the domain needs is not running, for this reason.
    Unready(String),
    /// The connection was lost.
    Lost {
        /// Whether the hypervisor was called: the domain may have been woken.
        called: bool,
        /// How long the hypervisor was available while the wake was queued or waited for the domain.
        available: Duration,
    },
}

/// Wakes the domain. This takes as long as the hypervisor takes.
pub async fn wake(hypervisor: Arc<dyn Hypervisor>, mut request: AttemptRequest) -> WakeResult {
    // When the domain was first seen in a transient state, and how long the attempts were queued in total.
    let (mut transient_since, mut queued) = (None, Duration::ZERO);
    let begin = Instant::now();
    loop {
        let before = begin.elapsed();
        let Some((waited, attempt)) = hypervisor.attempt(request).await else {
            return WakeResult::Lost { called: request.called.is_possible(), available: begin.elapsed() };
        };
        queued += waited;
        let (state, wait) = match attempt {
            AttemptResult::Lost { called } => return WakeResult::Lost { called, available: before + waited },
            AttemptResult::Done(outcome, reason) => {
                return WakeResult::Done(outcome, with_queue_time(reason, queued));
            }
            AttemptResult::Unready(reason) => return WakeResult::Unready(reason),
            AttemptResult::Expired => return WakeResult::Expired,
            AttemptResult::Again { state, wait, called } => {
                let called = request.called.after(called);
                request = AttemptRequest { called, known_off: false, ..request };
                (state, wait)
            }
        };
        let since = *transient_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= wait {
            let reason = format!("it is still {state} after {} s; wake it again later", wait.as_secs());
            return WakeResult::Done(Outcome::Failed, reason);
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

fn with_queue_time(reason: String, queued: Duration) -> String {
    if queued < REPORTED_QUEUE_TIME {
        return reason;
    }
    format!(
        "{reason}; the wake was queued for {} s behind other wakes on the same connection",
        queued.as_secs()
    )
}
