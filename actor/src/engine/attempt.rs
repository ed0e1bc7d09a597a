//! One wake: attempts until the wake has an outcome, expires or loses its connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::hypervisor::{Attempt, AttemptRequest, Hypervisor};
use crate::model::Outcome;

/// The time between two attempts while the domain is between two states.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The reason of a wake that was queued for longer mentions it.
const REPORTED_QUEUE_TIME: Duration = Duration::from_secs(1);

/// How a wake ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With this outcome, for this reason.
    Done(Outcome, String),
    /// It has expired, and the domain was not woken.
    Expired,
    /// The connection was lost.
    Lost {
        /// Whether the hypervisor was called: the domain may have been woken.
        called: bool,
        /// How long the hypervisor was available while the wake was queued or waited for the domain.
        available: Duration,
    },
}

/// Wakes the domain. This takes as long as the hypervisor takes.
pub async fn wake(hypervisor: Arc<dyn Hypervisor>, mut request: AttemptRequest) -> End {
    // Since when the domain has been between two states, and how long the attempts were queued.
    let (mut between_states, mut queued) = (None, Duration::ZERO);
    let begin = Instant::now();
    loop {
        let before = begin.elapsed();
        let Some((waited, attempt)) = hypervisor.attempt(request).await else {
            return End::Lost { called: request.called, available: begin.elapsed() };
        };
        queued += waited;
        let (state, wait) = match attempt {
            Attempt::Lost { called } => return End::Lost { called, available: before + waited },
            Attempt::Done(outcome, reason) => return End::Done(outcome, with_queue_time(reason, queued)),
            Attempt::Expired => return End::Expired,
            Attempt::Again { state, wait, called } => {
                request = AttemptRequest { called, known_off: false, ..request };
                (state, wait)
            }
        };
        let since = *between_states.get_or_insert_with(Instant::now);
        if since.elapsed() >= wait {
            let reason = format!("it is still {state} after {} s; wake it again later", wait.as_secs());
            return End::Done(Outcome::Failed, reason);
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
