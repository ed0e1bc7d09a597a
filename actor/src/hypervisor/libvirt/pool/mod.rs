//! Connections for wakes: each has a thread, which alone makes calls on it, and does one wake at a time.
//!
//! The threads are there from the start, and so are the connections, unless they are expensive: no wake waits
//! for a thread to be made. What finds no connection free waits, and the first to come is the first to go.

mod seat;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::events::Listener;
use crate::Error;
use crate::hypervisor::{Session, Work};
use seat::Seat;

/// Connections at most: four starts may be slow, and another wake still finds one free.
pub(super) const SEATS: usize = 5;
/// How often calls that are out and work that waits are looked at.
const CHECK: Duration = Duration::from_secs(1);
/// A call that is out for longer has the daemon pinged until it ends, and work that waits for longer is told.
const SLOW: Duration = Duration::from_secs(5);
/// For how long there may be no connection at all before the link is given up.
const GRACE: Duration = Duration::from_secs(10);

/// Opens the connection of one seat, and tells the listener its end.
pub(super) type Opener = Arc<dyn Fn(usize, &Arc<dyn Listener>) -> Result<Connection, Error> + Send + Sync>;

/// A connection of the pool.
pub(super) struct Connection {
    /// What wakes are done with.
    pub session: Box<dyn Session>,
    /// Has the daemon pinged from now on, so that a call does not wait for ever for one that hangs. It may be
    /// called while a call is out.
    pub guard: Guard,
}

/// See [`Connection::guard`].
pub(super) type Guard = Arc<dyn Fn() + Send + Sync>;

/// The connections to one hypervisor. The threads end when this is dropped.
pub(super) struct Pool(Arc<Shared>);

/// What the threads share.
pub(super) struct Shared {
    name: Arc<str>,
    state: Mutex<State>,
    /// Where the thread of each seat waits.
    bells: [Arc<Condvar>; SEATS],
    /// How many connections of the current generation there are.
    live: watch::Sender<usize>,
    /// There is work, which is to be looked at now and then.
    busy: Notify,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// How connections are opened; none while the hypervisor is away.
    opener: Option<Opener>,
    /// Connections are of one generation: each time the link is lost, all are closed.
    generation: u64,
    /// So many seats have a connection, or are to open one.
    wanted: usize,
    idle: BTreeSet<usize>,
    calls: [Option<Call>; SEATS],
    /// Why the last attempt to open a connection failed.
    error: String,
    /// Whether somebody looks at the work now and then.
    watched: bool,
    /// Whether the log says that work waits.
    told: bool,
    ended: bool,
}

struct Waiting {
    work: Work,
    since: Instant,
}

/// Work that is being done.
struct Call {
    since: Instant,
    guard: Guard,
    guarded: bool,
}

impl Pool {
    /// Starts the threads. There are no connections yet.
    ///
    /// # Errors
    /// If the kernel allows no further thread.
    pub(super) fn start(name: &Arc<str>) -> io::Result<Self> {
        let state = State {
            waiting: VecDeque::new(),
            opener: None,
            generation: 0,
            wanted: 0,
            idle: BTreeSet::new(),
            calls: std::array::from_fn(|_| None),
            error: String::new(),
            watched: false,
            told: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            name: Arc::clone(name),
            state: Mutex::new(state),
            bells: std::array::from_fn(|_| Arc::default()),
            live: watch::Sender::new(0),
            busy: Notify::new(),
        });
        // Dropped where a thread is missing, it ends the others.
        let pool = Self(Arc::clone(&shared));
        for (number, bell) in shared.bells.iter().enumerate() {
            let seat = Seat::new(&shared, number, bell);
            std::thread::Builder::new().name("libvirt-wake".to_owned()).spawn(move || seat.run())?;
        }
        Ok(pool)
    }

    /// Opens so many connections now, and further ones when there is work for them. Returns the generation, for
    /// [`Shared::run`].
    pub(super) fn open(&self, ahead: usize, opener: Opener) -> u64 {
        let mut state = self.0.state();
        state.opener = Some(opener);
        state.wanted = ahead.clamp(1, SEATS);
        self.0.ring_all();
        state.generation
    }

    /// Closes all connections, those with a call out once it has ended. What waits is dropped.
    pub(super) fn close(&self) {
        let mut state = self.0.state();
        state.opener = None;
        state.generation += 1;
        // Connections that are still to be closed belong to the old generation.
        self.0.live.send_replace(0);
        let dropped = std::mem::take(&mut state.waiting);
        // Nobody calls `check` until there is a link again: a call that never ends would keep its seat.
        let guards = state.guard(|_| true);
        self.0.ring_all();
        drop(state);
        guards.iter().for_each(|guard| guard());
        drop(dropped);
    }

    /// Why the last attempt to open a connection failed; empty if none has.
    pub(super) fn error(&self) -> String {
        self.0.state().error.clone()
    }

    /// What wakes use of it.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    /// Waits until there is a connection.
    pub(super) async fn ready(&self) {
        // The sender lives as long as this does.
        let _ = self.0.live.subscribe().wait_for(|live| *live > 0).await;
    }

    /// Waits until there has been no connection for some time.
    pub(super) async fn lost(&self) {
        let mut live = self.0.live.subscribe();
        loop {
            let _ = live.wait_for(|live| *live == 0).await;
            if tokio::time::timeout(GRACE, live.wait_for(|live| *live > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Looks after calls that are out, for as long as this is polled.
    pub(super) async fn look_after(&self) {
        loop {
            // First without a notice: there may be work that began before the last future was dropped.
            while self.0.check(Instant::now()) {
                tokio::time::sleep(CHECK).await;
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
    /// Does this work as soon as a connection of this generation is free; drops it if there are none any more.
    pub(super) fn run(&self, generation: u64, work: Work) {
        let mut state = self.state();
        if state.opener.is_none() || state.generation != generation {
            drop(state);
            return drop(work);
        }
        state.waiting.push_back(Waiting { work, since: Instant::now() });
        self.call_one(&mut state);
        if !std::mem::replace(&mut state.watched, true) {
            self.busy.notify_one();
        }
    }

    /// Wakes a seat up for work that waits, if there is one left.
    fn call_one(&self, state: &mut State) {
        if state.waiting.is_empty() {
            return;
        }
        // The first one, where it can be chosen: it knows the domains.
        let seat = state.idle.pop_first().or_else(|| state.one_more());
        if let Some(bell) = seat.and_then(|seat| self.bells.get(seat)) {
            bell.notify_one();
        }
    }

    /// How much work waits for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Has daemons pinged that take long to answer, and tells work that waits for long. Returns whether there is
    /// any work.
    fn check(&self, now: Instant) -> bool {
        let mut state = self.state();
        let slow = |since: Instant| now.saturating_duration_since(since) >= SLOW;
        let guards = state.guard(|call| slow(call.since));
        let crowded = state.waiting.front().is_some_and(|first| slow(first.since));
        let waiting = state.waiting.len();
        let news = (crowded && !state.told) || (state.told && waiting == 0);
        state.told = (state.told || crowded) && waiting > 0;
        let busy = waiting > 0 || state.calls.iter().any(Option::is_some);
        state.watched = busy || state.told;
        let watched = state.watched;
        drop(state);
        guards.iter().for_each(|guard| guard());
        if news && waiting > 0 {
            let name = &self.name;
            tracing::info!("all connections to {name} are in use: {waiting} wakes wait until one is free");
        } else if news {
            tracing::info!("no wake waits for a connection to {} any more", self.name);
        }
        watched
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_all(&self) {
        self.bells.iter().for_each(|bell| bell.notify_one());
    }
}

impl State {
    /// Marks these calls as guarded, and returns the guards of those that were not: for the caller, without the lock.
    fn guard(&mut self, which: impl Fn(&Call) -> bool) -> Vec<Guard> {
        let unguarded = self.calls.iter_mut().flatten().filter(|call| !call.guarded && which(call));
        let mark = |call: &mut Call| {
            call.guarded = true;
            Arc::clone(&call.guard)
        };
        unguarded.map(mark).collect()
    }

    /// The next seat that is to open a connection, if there is one left.
    fn one_more(&mut self) -> Option<usize> {
        let next = self.wanted;
        (next < SEATS).then(|| {
            self.wanted += 1;
            next
        })
    }
}

#[cfg(test)]
mod tests;
