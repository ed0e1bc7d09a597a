//! One worker of the pool: a thread with at most one connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;
use wakevirt_libvirt::events::Listener;

use super::shared::{Opener, PoolState, PooledConnection, QueuedWork, RunningWork, Shared};

/// The delay before a worker opens a connection again: initial and maximum.
const RETRY_INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A thread of the pool.
pub(super) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    condition: Arc<Condvar>,
}

/// Records that a connection was lost, and notifies its worker.
struct CloseListener {
    shared: Arc<Shared>,
    condition: Arc<Condvar>,
    lost: AtomicBool,
}

impl Worker {
    pub(super) fn new(shared: &Arc<Shared>, number: usize, condition: &Arc<Condvar>) -> Self {
        Self { shared: Arc::clone(shared), number, condition: Arc::clone(condition) }
    }

    /// Opens connections and runs work with them until the pool is dropped.
    pub(super) fn run(&self) {
        let mut interval = RETRY_INTERVAL.0;
        while let Some((generation, opener)) = self.wait_for_opener() {
            let begin = Instant::now();
            let closed = Arc::new(CloseListener {
                shared: Arc::clone(&self.shared),
                condition: Arc::clone(&self.condition),
                lost: AtomicBool::new(false),
            });
            let listener: Arc<dyn Listener> = Arc::<CloseListener>::clone(&closed);
            let reopen_now = match opener(self.number, &listener) {
                Ok(connection) => self.use_connection(generation, connection, &closed),
                Err(error) => {
                    tracing::debug!("no connection to {} for wakes: {error}", self.shared.name);
                    self.shared.state().error = error.to_string();
                    false
                }
            };
            if reopen_now || begin.elapsed() > RETRY_INTERVAL.1 {
                interval = RETRY_INTERVAL.0;
            }
            if !reopen_now {
                self.pause(generation, interval);
                interval = interval.saturating_mul(2).min(RETRY_INTERVAL.1);
            }
        }
    }

    /// Waits until this worker must open a connection; `None` when the pool is dropped.
    fn wait_for_opener(&self) -> Option<(u64, Opener)> {
        let mut state = self.shared.state();
        while !state.stopped {
            match &state.opener {
                Some(opener) if self.number < state.wanted => {
                    return Some((state.generation, Arc::clone(opener)));
                }
                _ => state = self.wait(state),
            }
        }
        None
    }

    /// Runs work with the connection until it is lost or closed. Returns whether to open the next one at once.
    fn use_connection(&self, generation: u64, connection: PooledConnection, closed: &CloseListener) -> bool {
        let PooledConnection { session, keepalive } = connection;
        let mut has_keepalive = false;
        let mut state = self.shared.state();
        // `Pool::close` resets the count for the next generation.
        if state.generation == generation {
            self.shared.live.send_modify(|live| *live += 1);
        }
        while state.generation == generation && !has_keepalive && !closed.lost.load(Ordering::Relaxed) {
            let Some(QueuedWork { work, .. }) = state.queue.pop_front() else {
                state.idle.insert(self.number);
                state = self.wait(state);
                state.idle.remove(&self.number);
                continue;
            };
            let call = RunningWork {
                since: Instant::now(),
                keepalive: Arc::clone(&keepalive),
                has_keepalive: false,
            };
            self.set_running(&mut state, Some(call));
            drop(state);
            work(session.as_ref());
            if !session.is_alive() {
                closed.lost.store(true, Ordering::Relaxed);
            }
            state = self.shared.state();
            has_keepalive = self.set_running(&mut state, None).is_some_and(|call| call.has_keepalive);
        }
        // This worker may have been notified of work that it can no longer run.
        self.shared.notify_one(&mut state);
        if state.generation == generation {
            self.shared.live.send_modify(|live| *live -= 1);
        }
        drop(state);
        let lost = closed.lost.load(Ordering::Relaxed);
        if !has_keepalive && !lost {
            // Closing the connection is also a call.
            keepalive();
        }
        // A thread that has just started keepalive may still hold the connection, but this thread must close it.
        while Arc::strong_count(&keepalive) > 1 {
            std::thread::yield_now();
        }
        drop((session, keepalive));
        // Keepalive cannot be stopped and started again, and must be off between calls: the connection is replaced.
        has_keepalive && !lost
    }

    /// Sets the work that this worker is running, and returns the previous value.
    fn set_running(&self, state: &mut PoolState, work: Option<RunningWork>) -> Option<RunningWork> {
        let slot = state.running.get_mut(self.number)?;
        std::mem::replace(slot, work)
    }

    /// Waits before the next attempt.
    fn pause(&self, generation: u64, time: Duration) {
        let deadline = Instant::now() + time;
        let mut state = self.shared.state();
        while !state.stopped && state.generation == generation {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            state = self.condition.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, PoolState>) -> MutexGuard<'a, PoolState> {
        self.condition.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for CloseListener {
    fn changed(&self, _: Uuid) {}

    fn closed(&self, _: &'static str) {
        // Holds the lock so that the worker cannot begin to wait in between.
        let state = self.shared.state();
        self.lost.store(true, Ordering::Relaxed);
        self.condition.notify_one();
        drop(state);
    }
}
