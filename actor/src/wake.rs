//! Waking one domain: look at its state, do what it calls for, look again if that fails.

use std::sync::Arc;

use uuid::Uuid;

use crate::decision::{Action, Outcome, act};
use crate::hypervisor::{Hypervisor, State, blocking};

/// How a wake ended, and why so.
pub type End = (Outcome, String);

/// Wakes the domain. It takes as long as the hypervisor takes.
pub async fn wake(hypervisor: Arc<dyn Hypervisor>, uuid: Uuid) -> End {
    let state = match blocking(&hypervisor, move |hypervisor| hypervisor.state(uuid)).await {
        Ok(state) => state,
        Err(error) => return (Outcome::Failed, error.to_string()),
    };
    match act(state) {
        Action::Nothing(outcome, reason) => (outcome, reason),
        Action::Start => start(hypervisor, uuid, state).await,
    }
}

async fn start(hypervisor: Arc<dyn Hypervisor>, uuid: Uuid, before: State) -> End {
    let error = match blocking(&hypervisor, move |hypervisor| hypervisor.start(uuid)).await {
        Ok(()) => return (Outcome::Started, format!("it was {before}")),
        Err(error) => error,
    };
    // Somebody else may have started it in between. The error's code does not tell: drivers differ.
    match blocking(&hypervisor, move |hypervisor| hypervisor.state(uuid)).await {
        Ok(State::Running) => (Outcome::AlreadyRunning, "somebody else has just started it".to_owned()),
        _ => (Outcome::Failed, error.to_string()),
    }
}
