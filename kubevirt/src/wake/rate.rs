//! Limits how fast virtual machines are started: a packet flood must not overload a cluster.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The maximum number of starts in [`PERIOD`], for all clusters together.
const MAX_STARTS: usize = 10;
/// See [`MAX_STARTS`].
const PERIOD: Duration = Duration::from_secs(1);

/// When the most recent starts took place. The wake that is next holds the lock until its start, and the lock passes to
/// the others in the order in which they came. A wake that ends while it waits takes no start from others.
static STARTS: Mutex<VecDeque<Instant>> = Mutex::const_new(VecDeque::new());
/// The number of wakes that are waiting.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Waits until a virtual machine can be started; returns how long that took.
pub(super) async fn wait() -> Duration {
    let _waiting = Waiting::new();
    wait_in(&STARTS).await
}

/// The number of wakes that are waiting.
pub(super) fn queued() -> usize {
    QUEUED.load(Ordering::Relaxed)
}

async fn wait_in(starts: &Mutex<VecDeque<Instant>>) -> Duration {
    let begin = Instant::now();
    let mut starts = starts.lock().await;
    if starts.len() >= MAX_STARTS
        && let Some(oldest) = starts.front()
    {
        sleep_until(*oldest + PERIOD).await;
        starts.pop_front();
    }
    starts.push_back(Instant::now());
    begin.elapsed()
}

/// Counts a wake as waiting until it is dropped.
struct Waiting;

impl Waiting {
    fn new() -> Self {
        QUEUED.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        QUEUED.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_most_ten_starts_in_a_second() {
        let starts = Arc::new(Mutex::default());
        let begin = |starts: &Arc<_>| {
            let starts = Arc::clone(starts);
            tokio::spawn(async move { wait_in(&starts).await.as_secs() })
        };
        let waits: Vec<_> = (0..25).map(|_| begin(&starts)).collect();
        let mut delays = Vec::new();
        for wait in waits {
            delays.push(wait.await.unwrap());
        }
        assert_eq!(delays.iter().filter(|delay| **delay == 0).count(), MAX_STARTS);
        assert_eq!(delays.iter().filter(|delay| **delay == 1).count(), MAX_STARTS);
        assert_eq!(delays.last(), Some(&2));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(wait_in(&starts).await, Duration::ZERO);
        assert_eq!(starts.lock().await.len(), MAX_STARTS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_that_ends_early_takes_no_start() {
        let starts = Arc::new(Mutex::default());
        for _ in 0..MAX_STARTS {
            wait_in(&starts).await;
        }
        for _ in 0..100 {
            let early = tokio::time::timeout(Duration::from_millis(1), wait_in(&starts)).await;
            assert!(early.is_err());
        }
        let begin = Instant::now();
        wait_in(&starts).await;
        assert!(begin.elapsed() > Duration::from_millis(800) && begin.elapsed() < PERIOD);
    }
}
