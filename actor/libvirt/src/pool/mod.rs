//! Connections for wakes. Each has a worker thread, which makes all calls on it and runs one attempt at a time.
//!
//! The threads are created in advance, and so are the connections unless they are expensive. A wake therefore never
//! waits for a new thread. If no connection is free, work is queued in order of arrival.

mod shared;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use shared::{MAX_CONNECTIONS, Opener, PooledConnection, Shared};
use worker::Worker;

/// How often calls in progress and queued work are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the pool can be without a connection before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The connections to one hypervisor. The threads exit when this value is dropped.
pub(super) struct Pool(Arc<Shared>);

impl Pool {
    /// Starts the threads, without connections.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub(super) fn start(name: &Arc<str>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(name));
        // If a thread cannot be created, dropping the pool stops the others.
        let pool = Self(Arc::clone(&shared));
        for (number, condition) in shared.conditions.iter().enumerate() {
            let worker = Worker::new(&shared, number, condition);
            std::thread::Builder::new().name("libvirt-wake".to_owned()).spawn(move || worker.run())?;
        }
        Ok(pool)
    }

    /// Opens this many connections now, and more when work is queued. Returns the generation, for
    /// [`Shared::run`].
    pub(super) fn open(&self, in_advance: usize, opener: Opener) -> u64 {
        let mut state = self.0.state();
        state.opener = Some(opener);
        state.wanted = in_advance.clamp(1, MAX_CONNECTIONS);
        self.0.notify_all();
        state.generation
    }

    /// Closes all connections; if a call is in progress on one, closes it after the call. Drops queued work.
    pub(super) fn close(&self) {
        let mut state = self.0.state();
        state.opener = None;
        state.generation += 1;
        // Connections that are not closed yet belong to the old generation.
        self.0.live.send_replace(0);
        let dropped = std::mem::take(&mut state.queue);
        // `check` is not called until the pool is opened again, and a call that never returns would block its worker.
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
        // This cannot fail: `self` owns the sender.
        let _ = self.0.live.subscribe().wait_for(|live| *live > 0).await;
    }

    /// Waits until no connection has been open for [`LOST_AFTER`].
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
            // The first check needs no notification: work may have begun before the previous future was dropped.
            while self.0.check(Instant::now()) {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
            self.0.busy.notified().await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state().stopped = true;
        self.close();
    }
}

#[cfg(test)]
mod tests;
