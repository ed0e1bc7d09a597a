//! The state that the pool and its workers share.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use wakevirt_actor::hypervisor::HypervisorError;
use wakevirt_actor::hypervisor::session::{Session, Work};
use wakevirt_libvirt::events::Listener;
use wakevirt_service::logs::kind;

/// The maximum number of connections: during four slow starts, another wake still finds a free connection.
pub(crate) const MAX_CONNECTIONS: usize = 5;
/// If a call takes longer than this, keepalive is started on its connection. Work that is queued for longer is
/// reported.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// Opens the connection of one worker, and reports its end to the listener.
pub(crate) type Opener =
    Arc<dyn Fn(usize, &Arc<dyn Listener>) -> Result<PooledConnection, HypervisorError> + Send + Sync>;

/// A connection in the pool.
pub(crate) struct PooledConnection {
    /// Runs attempts.
    pub session: Box<dyn Session>,
    /// Starts keepalive on the connection, so that a call to a hanging daemon returns. This function can be called
    /// during such a call.
    pub keepalive: Keepalive,
}

/// See [`PooledConnection::keepalive`].
pub(crate) type Keepalive = Arc<dyn Fn() + Send + Sync>;

/// The state that the threads share.
pub(crate) struct Shared {
    pub name: Arc<str>,
    pub(super) state: Mutex<PoolState>,
    /// Each worker waits on its own condition variable.
    pub conditions: [Arc<Condvar>; MAX_CONNECTIONS],
    /// The number of open connections of the current generation.
    pub live: watch::Sender<usize>,
    /// Notified when there is work, which must be checked periodically.
    pub busy: Notify,
}

#[derive(Default)]
pub(super) struct PoolState {
    pub queue: VecDeque<QueuedWork>,
    /// Opens connections; `None` while the hypervisor is unavailable.
    pub opener: Option<Opener>,
    /// Each time the pool is closed, a new generation of connections begins.
    pub generation: u64,
    /// The number of workers that have a connection or must open one.
    pub wanted: usize,
    pub idle: BTreeSet<usize>,
    pub running: [Option<RunningWork>; MAX_CONNECTIONS],
    /// Why the last attempt to open a connection failed.
    pub error: String,
    /// Whether the work is being checked periodically.
    pub watched: bool,
    /// Whether queued work has been reported in the log.
    pub reported: bool,
    pub stopped: bool,
}

pub(super) struct QueuedWork {
    pub work: Work,
    pub since: Instant,
}

/// Work that a worker is running.
pub(super) struct RunningWork {
    pub since: Instant,
    pub keepalive: Keepalive,
    pub has_keepalive: bool,
}

impl Shared {
    /// A pool without connections and without work.
    pub(super) fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            state: Mutex::default(),
            conditions: std::array::from_fn(|_| Arc::default()),
            live: watch::Sender::new(0),
            busy: Notify::new(),
        }
    }

    /// Runs the work as soon as a connection of this generation is free; drops it if the generation is closed.
    pub(crate) fn run(&self, generation: u64, work: Work) {
        let mut state = self.state();
        if state.opener.is_none() || state.generation != generation {
            drop(state);
            return drop(work);
        }
        state.queue.push_back(QueuedWork { work, since: Instant::now() });
        let worker = self.next_free(&mut state);
        let was_watched = std::mem::replace(&mut state.watched, true);
        // Otherwise, the worker would wait again, for the lock.
        drop(state);
        if let Some(condition) = worker {
            condition.notify_one();
        }
        if !was_watched {
            self.busy.notify_one();
        }
    }

    /// Notifies a worker of queued work, if one is free.
    pub(super) fn notify_one(&self, state: &mut PoolState) {
        if let Some(condition) = self.next_free(state) {
            condition.notify_one();
        }
    }

    /// The condition of a free worker, which must be notified, if there is queued work.
    fn next_free(&self, state: &mut PoolState) -> Option<&Arc<Condvar>> {
        if state.queue.is_empty() {
            return None;
        }
        // Prefers the first worker: its connection has cached the domains.
        let worker = state.idle.pop_first().or_else(|| state.next_worker());
        worker.and_then(|worker| self.conditions.get(worker))
    }

    pub(super) fn notify_all(&self) {
        self.conditions.iter().for_each(|condition| condition.notify_one());
    }

    /// The amount of queued work.
    pub(crate) fn queued(&self) -> usize {
        self.state().queue.len()
    }

    /// Starts keepalive on connections with slow calls, and reports work that has been queued for a long time.
    /// Returns whether there is any work.
    pub(super) fn check(&self, now: Instant) -> bool {
        let mut state = self.state();
        let slow = |since: Instant| now.saturating_duration_since(since) >= SLOW;
        let keepalives = state.mark_keepalive(|call| slow(call.since));
        let overdue = state.queue.front().is_some_and(|first| slow(first.since));
        let waiting = state.queue.len();
        let has_changed = (overdue && !state.reported) || (state.reported && waiting == 0);
        state.reported = (state.reported || overdue) && waiting > 0;
        let busy = waiting > 0 || state.running.iter().any(Option::is_some);
        state.watched = busy || state.reported;
        let watched = state.watched;
        drop(state);
        keepalives.iter().for_each(|start| start());
        if has_changed && waiting > 0 {
            let name = &self.name;
            tracing::info!(
                MESSAGE_ID = kind::WAKES_QUEUED,
                WAKEVIRT_CONNECTION = &**name,
                "all connections to {name} are in use; queued wakes: {waiting}"
            );
        } else if has_changed {
            tracing::info!(
                MESSAGE_ID = kind::WAKES_NOT_QUEUED,
                WAKEVIRT_CONNECTION = &*self.name,
                "wakes are no longer queued for a connection to {}",
                self.name
            );
        }
        watched
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    /// Marks the matching calls as having keepalive, and returns the functions that start it, to be called without
    /// the lock.
    pub(super) fn mark_keepalive(&mut self, which: impl Fn(&RunningWork) -> bool) -> Vec<Keepalive> {
        let calls = self.running.iter_mut().flatten().filter(|call| !call.has_keepalive && which(call));
        let mark = |call: &mut RunningWork| {
            call.has_keepalive = true;
            Arc::clone(&call.keepalive)
        };
        calls.map(mark).collect()
    }

    /// The next worker without a connection, which must open one.
    fn next_worker(&mut self) -> Option<usize> {
        let next = self.wanted;
        (next < MAX_CONNECTIONS).then(|| {
            self.wanted += 1;
            next
        })
    }
}
