//! Limits how fast virtual machines are started: a packet flood must not overload a cluster.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The maximum number of starts in [`PERIOD`], for all clusters together.
const MAX_STARTS: usize = 10;
/// See [`MAX_STARTS`].
const PERIOD: Duration = Duration::from_secs(1);

/// When the most recent starts take place. Some of them can be in the future.
static STARTS: Mutex<VecDeque<Instant>> = Mutex::new(VecDeque::new());
/// The number of wakes that are waiting.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Waits until a virtual machine can be started; returns how long that took.
pub(super) async fn wait() -> Duration {
    let now = Instant::now();
    let at = next(&mut STARTS.lock().unwrap_or_else(PoisonError::into_inner), now);
    if at > now {
        let mut waiting = Waiting::new(at);
        tokio::time::sleep_until(at).await;
        waiting.is_over = true;
    }
    now.elapsed()
}

/// The number of wakes that are waiting.
pub(super) fn queued() -> usize {
    QUEUED.load(Ordering::Relaxed)
}

/// When the next start can take place.
fn next(starts: &mut VecDeque<Instant>, now: Instant) -> Instant {
    let at = match starts.front() {
        Some(oldest) if starts.len() >= MAX_STARTS => now.max(*oldest + PERIOD),
        _ => now,
    };
    if starts.len() >= MAX_STARTS {
        starts.pop_front();
    }
    starts.push_back(at);
    at
}

/// Counts a wake as waiting until it is dropped. If the wake ends before its start, others can use its time.
struct Waiting {
    at: Instant,
    is_over: bool,
}

impl Waiting {
    fn new(at: Instant) -> Self {
        QUEUED.fetch_add(1, Ordering::Relaxed);
        Self { at, is_over: false }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        QUEUED.fetch_sub(1, Ordering::Relaxed);
        let mut starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let position = starts.iter().position(|at| *at == self.at);
        if let Some(position) = position.filter(|_| !self.is_over) {
            starts.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_starts_in_a_second() {
        let (mut starts, now) = (VecDeque::new(), Instant::now());
        let delays: Vec<u64> = (0..25).map(|_| (next(&mut starts, now) - now).as_secs()).collect();
        assert_eq!(delays.iter().filter(|delay| **delay == 0).count(), MAX_STARTS);
        assert_eq!(delays.iter().filter(|delay| **delay == 1).count(), MAX_STARTS);
        assert_eq!(delays.last(), Some(&2));
        let later = now + Duration::from_secs(60);
        assert_eq!(next(&mut starts, later), later);
        assert_eq!(starts.len(), MAX_STARTS);
    }
}
