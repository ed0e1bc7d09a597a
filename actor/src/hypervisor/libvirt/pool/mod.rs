//! Connections for wakes. Each has a worker thread, which alone makes calls on it, and runs one attempt at a time.
//!
//! The threads exist from the start, and so do the connections unless they are expensive: no wake waits for a new
//! thread. If no connection is free, work is queued in the order of its arrival.

mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::events::Listener;
use crate::hypervisor::Error;
use crate::hypervisor::session::{Session, Work};
use worker::Worker;

/// The most connections: during four slow starts, another wake still finds a free connection.
pub(super) const MAX_CONNECTIONS: usize = 5;
/// How often calls in progress and queued work are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A call that takes longer gets keepalive on its connection, and work that is queued for longer is reported.
const SLOW: Duration = Duration::from_secs(5);
/// How long there may be no connection at all before the pool counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Opens the connection of one worker, and reports its end to the listener.
pub(super) type Opener =
    Arc<dyn Fn(usize, &Arc<dyn Listener>) -> Result<PooledConnection, Error> + Send + Sync>;

/// A connection of the pool.
pub(super) struct PooledConnection {
    /// Runs attempts.
    pub session: Box<dyn Session>,
    /// Starts keepalive on the connection, so that a call to a hanging daemon ends. It can be called during a call.
    pub keepalive: Keepalive,
}

/// See [`PooledConnection::keepalive`].
pub(super) type Keepalive = Arc<dyn Fn() + Send + Sync>;

/// The connections to one hypervisor. The threads end when this is dropped.
pub(super) struct Pool(Arc<Shared>);

/// The state that the threads share.
pub(super) struct Shared {
    name: Arc<str>,
    state: Mutex<PoolState>,
    /// Each worker waits on its own condition variable.
    conditions: [Arc<Condvar>; MAX_CONNECTIONS],
    /// The number of open connections of the current generation.
    live: watch::Sender<usize>,
    /// Notified when there is work, which must be checked periodically.
    busy: Notify,
}

struct PoolState {
    queue: VecDeque<QueuedWork>,
    /// Opens connections; `None` while the hypervisor is unavailable.
    opener: Option<Opener>,
    /// Each time the pool is closed, a new generation of connections begins.
    generation: u64,
    /// The number of workers that have a connection or must open one.
    wanted: usize,
    idle: BTreeSet<usize>,
    running: [Option<RunningWork>; MAX_CONNECTIONS],
    /// Why the last attempt to open a connection failed.
    error: String,
    /// Whether the work is being checked periodically.
    watched: bool,
    /// Whether the log has reported queued work.
    reported: bool,
    ended: bool,
}

struct QueuedWork {
    work: Work,
    since: Instant,
}

/// Work that a worker is running.
struct RunningWork {
    since: Instant,
    keepalive: Keepalive,
    has_keepalive: bool,
}

impl Pool {
    /// Starts the threads. There are no connections yet.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub(super) fn start(name: &Arc<str>) -> io::Result<Self> {
        let state = PoolState {
            queue: VecDeque::new(),
            opener: None,
            generation: 0,
            wanted: 0,
            idle: BTreeSet::new(),
            running: std::array::from_fn(|_| None),
            error: String::new(),
            watched: false,
            reported: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            name: Arc::clone(name),
            state: Mutex::new(state),
            conditions: std::array::from_fn(|_| Arc::default()),
            live: watch::Sender::new(0),
            busy: Notify::new(),
        });
        // If a thread cannot be created, dropping the pool ends the others.
        let pool = Self(Arc::clone(&shared));
        for (number, condition) in shared.conditions.iter().enumerate() {
            let worker = Worker::new(&shared, number, condition);
            std::thread::Builder::new().name("libvirt-wake".to_owned()).spawn(move || worker.run())?;
        }
        Ok(pool)
    }

    /// Opens this many connections now, and more when there is work for them. Returns the generation, for
    /// [`Shared::run`].
    pub(super) fn open(&self, ahead: usize, opener: Opener) -> u64 {
        let mut state = self.0.state();
        state.opener = Some(opener);
        state.wanted = ahead.clamp(1, MAX_CONNECTIONS);
        self.0.notify_all();
        state.generation
    }

    /// Closes all connections; one with a call in progress is closed after the call. Queued work is dropped.
    pub(super) fn close(&self) {
        let mut state = self.0.state();
        state.opener = None;
        state.generation += 1;
        // Connections that are not closed yet belong to the old generation.
        self.0.live.send_replace(0);
        let dropped = std::mem::take(&mut state.queue);
        // `check` is not called until the pool is opened again: a call that never ends would block its worker.
        let keepalives = state.mark_keepalive(|_| true);
        self.0.notify_all();
        drop(state);
        keepalives.iter().for_each(|start| start());
        drop(dropped);
    }

    /// Why the last attempt to open a connection failed; empty if none failed.
    pub(super) fn error(&self) -> String {
        self.0.state().error.clone()
    }

    /// The part of the pool that wakes use.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    /// Waits until a connection is open.
    pub(super) async fn ready(&self) {
        // `self` owns the sender.
        let _ = self.0.live.subscribe().wait_for(|live| *live > 0).await;
    }

    /// Waits until no connection was open for [`LOST_AFTER`].
    pub(super) async fn lost(&self) {
        let mut live = self.0.live.subscribe();
        loop {
            let _ = live.wait_for(|live| *live == 0).await;
            if tokio::time::timeout(LOST_AFTER, live.wait_for(|live| *live > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Checks calls in progress and queued work periodically, as long as the future is polled.
    pub(super) async fn watch(&self) {
        loop {
            // First without a notification: work may have begun before the previous future was dropped.
            while self.0.check(Instant::now()) {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
            self.0.busy.notified().await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.close();
    }
}

impl Shared {
    /// Runs the work as soon as a connection of this generation is free; drops it if the generation is closed.
    pub(super) fn run(&self, generation: u64, work: Work) {
        let mut state = self.state();
        if state.opener.is_none() || state.generation != generation {
            drop(state);
            return drop(work);
        }
        state.queue.push_back(QueuedWork { work, since: Instant::now() });
        self.notify_one(&mut state);
        if !std::mem::replace(&mut state.watched, true) {
            self.busy.notify_one();
        }
    }

    /// Notifies a worker of queued work, if one is free.
    fn notify_one(&self, state: &mut PoolState) {
        if state.queue.is_empty() {
            return;
        }
        // Prefers the first worker: its connection has cached the domains.
        let worker = state.idle.pop_first().or_else(|| state.one_more());
        if let Some(condition) = worker.and_then(|worker| self.conditions.get(worker)) {
            condition.notify_one();
        }
    }

    fn notify_all(&self) {
        self.conditions.iter().for_each(|condition| condition.notify_one());
    }

    /// The amount of queued work.
    pub(super) fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// Starts keepalive on connections with slow calls, and reports work that is queued for long. Returns whether
    /// there is any work.
    fn check(&self, now: Instant) -> bool {
        let mut state = self.state();
        let slow = |since: Instant| now.saturating_duration_since(since) >= SLOW;
        let keepalives = state.mark_keepalive(|call| slow(call.since));
        let crowded = state.queue.front().is_some_and(|first| slow(first.since));
        let waiting = state.queue.len();
        let has_changed = (crowded && !state.reported) || (state.reported && waiting == 0);
        state.reported = (state.reported || crowded) && waiting > 0;
        let busy = waiting > 0 || state.running.iter().any(Option::is_some);
        state.watched = busy || state.reported;
        let watched = state.watched;
        drop(state);
        keepalives.iter().for_each(|start| start());
        if has_changed && waiting > 0 {
            let name = &self.name;
            tracing::info!("all connections to {name} are in use: {waiting} wakes are queued");
        } else if has_changed {
            tracing::info!("wakes are no longer queued for a connection to {}", self.name);
        }
        watched
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    /// Marks the matching calls as having keepalive, and returns the functions that start it, to be called without
    /// the lock.
    fn mark_keepalive(&mut self, which: impl Fn(&RunningWork) -> bool) -> Vec<Keepalive> {
        let calls = self.running.iter_mut().flatten().filter(|call| !call.has_keepalive && which(call));
        let mark = |call: &mut RunningWork| {
            call.has_keepalive = true;
            Arc::clone(&call.keepalive)
        };
        calls.map(mark).collect()
    }

    /// The next worker that must open a connection, if one is left.
    fn one_more(&mut self) -> Option<usize> {
        let next = self.wanted;
        (next < MAX_CONNECTIONS).then(|| {
            self.wanted += 1;
            next
        })
    }
}

#[cfg(test)]
mod tests;
