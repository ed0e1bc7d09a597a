//! How many signals may go out in a time.

use std::time::{Duration, Instant};

/// A token bucket that holds one second's worth of signals.
///
/// It keeps one point in time instead of a level (the generic cell rate algorithm, ITU-T I.371):
/// when the bucket will be full again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one signal out of the bucket; `false` where it is empty, or never holds any.
    ///
    /// `rate` is in signals per second.
    pub fn take(&mut self, rate: u32, now: Instant) -> bool {
        let Some(refill) = Duration::from_secs(1).checked_div(rate) else { return false };
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + refill;
        if full_at > now + Duration::from_secs(1) {
            return false;
        }
        self.full_at = Some(full_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_a_second_worth_and_refills_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket::default();
        assert_eq!((0..50).filter(|_| bucket.take(10, start)).count(), 10);
        let mut later = start;
        for _ in 0..30 {
            later += Duration::from_millis(100);
            assert!(bucket.take(10, later));
            assert!(!bucket.take(10, later));
        }
        // A long silence gives no more than a second's worth.
        assert_eq!((0..50).filter(|_| bucket.take(10, later + Duration::from_secs(60))).count(), 10);
    }

    #[test]
    fn never_holds_any_at_a_rate_of_none() {
        assert!(!Bucket::default().take(0, Instant::now()));
    }
}
