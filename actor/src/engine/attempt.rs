//! Waking one domain: look at its state, do what it calls for, look again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::Error;
use crate::hypervisor::{Hypervisor, Session};
use crate::model::{Outcome, State, Trigger};
use crate::policy::decision::{Action, act, cools_down, is_restored_paused};
use crate::policy::rules::Paused;

/// How long a domain may be paused for a while: to be saved, dumped, or migrated.
const PAUSE_WAIT: Duration = Duration::from_secs(60);
/// How often a domain that is between two states is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// For how long what was known of a domain is relied upon. A wake may wait for longer until it is done.
const FRESH: Duration = Duration::from_millis(100);
/// A wake that has waited for longer says so.
const WORTH_TELLING: Duration = Duration::from_secs(1);

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
    /// Whether it is known to be off with nothing saved, so that it need not be looked at: no event has told
    /// anything else; a domain that is on cannot be started, which shows; and what is not restored is not
    /// paused after its start.
    pub known_off: bool,
    /// Whether it is too late to do anything. Its state may still show that it was woken.
    pub expired: bool,
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
    /// The domain was not woken when it should have been, and now it is too late.
    Expired,
    /// The connection was lost.
    Lost {
        /// Whether the hypervisor was called: perhaps it has woken the domain.
        called: bool,
        /// For how long the hypervisor was reachable: the wake has waited for a session, or for the domain.
        reachable: Duration,
    },
}

/// Wakes the domain. It takes as long as the hypervisor takes.
pub async fn wake(hypervisor: Arc<dyn Hypervisor>, mut order: Order) -> End {
    // Since when the domain is seen to be between two states, and for how long the wake waited for a session.
    let (mut unsettled, mut queued) = (None, Duration::ZERO);
    let begin = Instant::now();
    loop {
        let before = begin.elapsed();
        let Some((waited, turn)) = take_turn(hypervisor.as_ref(), order).await else {
            return End::Lost { called: order.called, reachable: begin.elapsed() };
        };
        queued += waited;
        let (state, wait) = match turn {
            Turn::Ended(End::Lost { called, .. }) => {
                return End::Lost { called, reachable: before + waited };
            }
            Turn::Ended(End::Done(outcome, reason)) => return End::Done(outcome, told(reason, queued)),
            Turn::Ended(End::Expired) => return End::Expired,
            Turn::Again { state, wait, called } => {
                order = Order { called, known_off: false, ..order };
                (state, wait)
            }
        };
        let since = *unsettled.get_or_insert_with(Instant::now);
        if since.elapsed() >= wait {
            let reason = format!("it is still {state} after {} s; wake it again later", wait.as_secs());
            return End::Done(Outcome::Failed, reason);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Does one turn with a session, and tells how long it has waited for one; `None` if there was none.
async fn take_turn(hypervisor: &dyn Hypervisor, order: Order) -> Option<(Duration, Turn)> {
    let asked = Instant::now();
    let (tell, told) = oneshot::channel();
    // All of it with one session, on one thread: to change threads between two calls takes half as long as a call.
    hypervisor.run(Box::new(move |session| {
        let waited = asked.elapsed();
        let order = Order { known_off: order.known_off && waited < FRESH, ..order };
        // Nobody waits for it any more where the service is about to end.
        let _ = tell.send((waited, turn(session, order)));
    }));
    told.await.ok()
}

fn told(reason: String, queued: Duration) -> String {
    if queued < WORTH_TELLING {
        return reason;
    }
    format!("{reason}; the wake has waited {} s for others at the same connection", queued.as_secs())
}

/// What came of looking at the domain, and of doing what its state calls for.
enum Turn {
    /// The end of the wake.
    Ended(End),
    /// It is between two states, and is to be looked at again.
    Again {
        /// The state that it was in.
        state: State,
        /// How long that may last.
        wait: Duration,
        /// Whether the hypervisor was called, and has not told what came of that.
        called: bool,
    },
}

fn turn(session: &dyn Session, order: Order) -> Turn {
    let called = order.called;
    let state = if order.known_off { Ok(State::ShutOff) } else { session.state(order.uuid) };
    let state = match state {
        Ok(state) => state,
        Err(error) => return Turn::Ended(failed(session, &error, called)),
    };
    let (outcome, call): (_, Call) = match act(state, order.terms.paused) {
        Action::Nothing(Outcome::AlreadyRunning, _) if called => {
            let reason = "it runs; what came of the call that woke it was not told".to_owned();
            return Turn::Ended(End::Done(Outcome::Started, reason));
        }
        Action::Nothing(outcome, reason) => return Turn::Ended(End::Done(outcome, reason)),
        Action::AwaitOff => return Turn::Again { state, wait: order.shutdown_wait, called },
        Action::AwaitPause => return Turn::Again { state, wait: PAUSE_WAIT, called },
        Action::Start => (Outcome::Started, |session, uuid| session.start(uuid)),
        Action::Resume => (Outcome::Resumed, |session, uuid| session.resume(uuid)),
        Action::WakeUp => (Outcome::Woken, |session, uuid| session.pm_wakeup(uuid)),
    };
    if order.expired {
        return Turn::Ended(End::Expired);
    }
    if order.terms.cool_down() {
        let reason = "a wake has succeeded just before".to_owned();
        return Turn::Ended(End::Done(Outcome::CoolingDown, reason));
    }
    attempt(session, order, state, outcome, call)
}

type Call = fn(&dyn Session, Uuid) -> Result<(), Error>;

fn attempt(session: &dyn Session, order: Order, before: State, outcome: Outcome, call: Call) -> Turn {
    let Order { uuid, terms, .. } = order;
    let result = call(session, uuid);
    if order.known_off && result.is_ok() {
        return Turn::Ended(End::Done(outcome, format!("it was {before}")));
    }
    let after = session.state(uuid);
    let end = match (result, after) {
        (Ok(()), Ok(after))
            if outcome == Outcome::Started && is_restored_paused(after) && terms.paused == Paused::Resume =>
        {
            match (session.resume(uuid), session.state(uuid)) {
                (Ok(()), _) | (Err(_), Ok(State::Running)) => {
                    End::Done(outcome, format!("it was {before}, and paused when it was saved"))
                }
                (Err(error), _) => failed(session, &error, true),
            }
        }
        (Ok(()), Ok(_)) => End::Done(outcome, format!("it was {before}")),
        // It was done, and whether it also runs is to be seen when the connection is back.
        (Ok(()), Err(_)) if !session.is_alive() => lost(true),
        (Ok(()), Err(_)) => End::Done(outcome, format!("it was {before}")),
        // Somebody else may have done it in between. The error's code does not tell: drivers differ.
        (Err(_), Ok(State::Running)) => {
            End::Done(Outcome::AlreadyRunning, "somebody else has just woken it".to_owned())
        }
        (Err(_), Ok(after)) if matches!(act(after, terms.paused), Action::AwaitOff | Action::AwaitPause) => {
            return Turn::Again { state: before, wait: PAUSE_WAIT, called: false };
        }
        // It was not off, as was thought: what it is calls for something else.
        (Err(_), Ok(after)) if order.known_off && after != State::ShutOff => {
            return turn(session, Order { known_off: false, ..order });
        }
        (Err(error), _) => failed(session, &error, true),
    };
    Turn::Ended(end)
}

fn failed(session: &dyn Session, error: &Error, called: bool) -> End {
    if session.is_alive() { End::Done(Outcome::Failed, error.to_string()) } else { lost(called) }
}

const fn lost(called: bool) -> End {
    End::Lost { called, reachable: Duration::ZERO }
}
