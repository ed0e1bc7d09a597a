//! One seat of the pool: a thread with at most one connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::events::Listener;
use super::{Call, Connection, Opener, Shared, State, Waiting};

/// How long a seat waits before it opens a connection again, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A thread of the pool.
pub(super) struct Seat {
    shared: Arc<Shared>,
    number: usize,
    bell: Arc<Condvar>,
}

/// Whether a connection is lost.
struct End {
    shared: Arc<Shared>,
    bell: Arc<Condvar>,
    lost: AtomicBool,
}

impl Seat {
    pub(super) fn new(shared: &Arc<Shared>, number: usize, bell: &Arc<Condvar>) -> Self {
        Self { shared: Arc::clone(shared), number, bell: Arc::clone(bell) }
    }

    /// Opens connections and does work with them until the pool ends.
    pub(super) fn run(&self) {
        let mut wait = WAIT.0;
        while let Some((generation, opener)) = self.order() {
            let begin = Instant::now();
            let end = Arc::new(End {
                shared: Arc::clone(&self.shared),
                bell: Arc::clone(&self.bell),
                lost: AtomicBool::new(false),
            });
            let listener: Arc<dyn Listener> = Arc::<End>::clone(&end);
            let replaced = match opener(self.number, &listener) {
                Ok(connection) => self.serve(generation, connection, &end),
                Err(error) => {
                    tracing::debug!("no connection to {} for wakes: {error}", self.shared.name);
                    self.shared.state().error = error.to_string();
                    false
                }
            };
            if replaced || begin.elapsed() > WAIT.1 {
                wait = WAIT.0;
            }
            if !replaced {
                self.pause(generation, wait);
                wait = wait.saturating_mul(2).min(WAIT.1);
            }
        }
    }

    /// Waits until this seat is to have a connection; `None` when the pool ends.
    fn order(&self) -> Option<(u64, Opener)> {
        let mut state = self.shared.state();
        while !state.ended {
            match &state.opener {
                Some(opener) if self.number < state.wanted => {
                    return Some((state.generation, Arc::clone(opener)));
                }
                _ => state = self.wait(state),
            }
        }
        None
    }

    /// Does work with the connection until it is lost or given up. Returns whether it is to be replaced at once.
    fn serve(&self, generation: u64, connection: Connection, end: &End) -> bool {
        let Connection { session, guard } = connection;
        let mut guarded = false;
        let mut state = self.shared.state();
        // `Pool::close` sets the count to 0 for the next generation.
        if state.generation == generation {
            self.shared.live.send_modify(|live| *live += 1);
        }
        while state.generation == generation && !guarded && !end.lost.load(Ordering::Relaxed) {
            let Some(Waiting { work, .. }) = state.waiting.pop_front() else {
                state.idle.insert(self.number);
                state = self.wait(state);
                state.idle.remove(&self.number);
                continue;
            };
            let call = Call { since: Instant::now(), guard: Arc::clone(&guard), guarded: false };
            self.note(&mut state, Some(call));
            drop(state);
            work(session.as_ref());
            if !session.is_alive() {
                end.lost.store(true, Ordering::Relaxed);
            }
            state = self.shared.state();
            guarded = self.note(&mut state, None).is_some_and(|call| call.guarded);
        }
        // Perhaps it was called for work that it does not do any more.
        self.shared.call_one(&mut state);
        if state.generation == generation {
            self.shared.live.send_modify(|live| *live -= 1);
        }
        drop(state);
        let lost = end.lost.load(Ordering::Relaxed);
        if !guarded && !lost {
            // To close it is a call as well.
            guard();
        }
        // Whoever was to have the daemon pinged is about to drop the connection: closing it is for this thread.
        while Arc::strong_count(&guard) > 1 {
            std::thread::yield_now();
        }
        drop((session, guard));
        // Pings cannot be ended and begun again, and none are wanted while no call is out.
        guarded && !lost
    }

    fn note(&self, state: &mut State, call: Option<Call>) -> Option<Call> {
        let place = state.calls.get_mut(self.number)?;
        std::mem::replace(place, call)
    }

    /// Waits before the next attempt.
    fn pause(&self, generation: u64, time: Duration) {
        let deadline = Instant::now() + time;
        let mut state = self.shared.state();
        while !state.ended && state.generation == generation {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.bell.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for End {
    fn changed(&self, _: Uuid) {}

    fn closed(&self, _: &'static str) {
        // Under the lock, so that the seat does not fall asleep in between.
        let state = self.shared.state();
        self.lost.store(true, Ordering::Relaxed);
        self.bell.notify_one();
        drop(state);
    }
}
