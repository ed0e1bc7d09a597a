//! Waking one domain: look at its state, do what it calls for, look again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::Error;
use crate::decision::{Action, Outcome, Trigger, act, cools_down, is_restored_paused};
use crate::hypervisor::{Hypervisor, State, blocking};
use crate::rules::Paused;

/// How long a domain may be paused for a while: to be saved, dumped, or migrated.
const PAUSE_WAIT: Duration = Duration::from_secs(60);
/// How often a domain that is between two states is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A wake, as it is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Which domain.
    pub uuid: Uuid,
    /// What is allowed.
    pub terms: Terms,
    /// How long to wait for a domain that is shutting down.
    pub shutdown_wait: Duration,
    /// Whether the hypervisor was called for it already, and has not told what came of that.
    pub called: bool,
}

/// What a wake may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Who asks.
    pub trigger: Trigger,
    /// What is done with a domain that somebody has paused.
    pub paused: Paused,
    /// When a wake of the domain last succeeded, and for how long packets do nothing after that.
    pub cool_down: Option<(Instant, Duration)>,
}

impl Terms {
    /// Whether a wake under these terms does all that one under the other ones would do.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        let trigger = self.trigger == Trigger::Call || other.trigger == Trigger::Packet;
        trigger && (self.paused == Paused::Resume || other.paused == Paused::Leave)
    }

    fn cool_down(&self) -> bool {
        self.cool_down
            .is_some_and(|(success, window)| cools_down(self.trigger, Some(success.elapsed()), window))
    }
}

/// How a wake ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With this outcome, and why so.
    Done(Outcome, String),
    /// The connection was lost. `called`: perhaps the hypervisor has done it.
    Lost {
        /// Whether the hypervisor was called.
        called: bool,
    },
}

/// Wakes the domain. It takes as long as the hypervisor takes.
pub async fn wake(hypervisor: Arc<dyn Hypervisor>, order: Order) -> End {
    let uuid = order.uuid;
    let began = Instant::now();
    let mut called = order.called;
    loop {
        let state = match look(&hypervisor, uuid).await {
            Ok(state) => state,
            Err(error) => return failed(&hypervisor, &error, called),
        };
        let action = act(state, order.terms.paused);
        let wait = match &action {
            Action::Nothing(Outcome::AlreadyRunning, _) if called => {
                let reason = "it runs; the connection was lost while it was woken".to_owned();
                return End::Done(Outcome::Started, reason);
            }
            Action::Nothing(outcome, reason) => return End::Done(*outcome, reason.clone()),
            Action::AwaitOff => order.shutdown_wait,
            Action::AwaitPause => PAUSE_WAIT,
            Action::Start | Action::Resume | Action::WakeUp => {
                if order.terms.cool_down() {
                    let reason = "a wake has succeeded just before".to_owned();
                    return End::Done(Outcome::CoolingDown, reason);
                }
                match attempt(&hypervisor, &order, state, &action).await {
                    Attempt::Ended(end) => return end,
                    Attempt::Changing => called = false,
                }
                PAUSE_WAIT
            }
        };
        if began.elapsed() >= wait {
            let reason = format!("it is still {state} after {} s; wake it again later", wait.as_secs());
            return End::Done(Outcome::Failed, reason);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn look(hypervisor: &Arc<dyn Hypervisor>, uuid: Uuid) -> Result<State, Error> {
    blocking(hypervisor, move |hypervisor| hypervisor.state(uuid)).await
}

/// What came of a call to the hypervisor.
enum Attempt {
    /// This.
    Ended(End),
    /// It failed because somebody else changes the domain's state: to be decided again.
    Changing,
}

type Call = fn(&dyn Hypervisor, Uuid) -> Result<(), Error>;

async fn attempt(hypervisor: &Arc<dyn Hypervisor>, order: &Order, before: State, action: &Action) -> Attempt {
    let uuid = order.uuid;
    let (outcome, call): (_, Call) = match action {
        Action::Resume => (Outcome::Resumed, |hypervisor, uuid| hypervisor.resume(uuid)),
        Action::WakeUp => (Outcome::Woken, |hypervisor, uuid| hypervisor.pm_wakeup(uuid)),
        _ => (Outcome::Started, |hypervisor, uuid| hypervisor.start(uuid)),
    };
    let result = blocking(hypervisor, move |hypervisor| call(hypervisor, uuid)).await;
    let after = look(hypervisor, uuid).await;
    let end = match (result, after) {
        (Ok(()), Ok(after))
            if outcome == Outcome::Started
                && is_restored_paused(after)
                && order.terms.paused == Paused::Resume =>
        {
            let resumed = blocking(hypervisor, move |hypervisor| hypervisor.resume(uuid)).await;
            match (resumed, look(hypervisor, uuid).await) {
                (Ok(()), _) | (Err(_), Ok(State::Running)) => {
                    End::Done(outcome, format!("it was {before}, saved while it was paused"))
                }
                (Err(error), _) => failed(hypervisor, &error, true),
            }
        }
        (Ok(()), Ok(_)) => End::Done(outcome, format!("it was {before}")),
        // It was done, and whether it also runs is to be seen when the connection is back.
        (Ok(()), Err(_)) if !hypervisor.is_alive() => End::Lost { called: true },
        (Ok(()), Err(_)) => End::Done(outcome, format!("it was {before}")),
        // Somebody else may have done it in between. The error's code does not tell: drivers differ.
        (Err(_), Ok(State::Running)) => {
            End::Done(Outcome::AlreadyRunning, "somebody else has just woken it".to_owned())
        }
        (Err(_), Ok(after))
            if matches!(act(after, order.terms.paused), Action::AwaitOff | Action::AwaitPause) =>
        {
            return Attempt::Changing;
        }
        (Err(error), _) => failed(hypervisor, &error, true),
    };
    Attempt::Ended(end)
}

fn failed(hypervisor: &Arc<dyn Hypervisor>, error: &Error, called: bool) -> End {
    if hypervisor.is_alive() { End::Done(Outcome::Failed, error.to_string()) } else { End::Lost { called } }
}
