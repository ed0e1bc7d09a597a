//! The delay before a retry.

use std::time::Duration;

const MIN: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);

/// The delay before the next attempt. It starts at 100 ms and doubles with each attempt, up to 5 s.
#[derive(Debug, Clone)]
pub struct Backoff(Duration);

impl Backoff {
    /// Creates a delay of 100 ms.
    #[must_use]
    pub const fn new() -> Self {
        Self(MIN)
    }

    /// Waits, and doubles the delay. A cancelled wait also counts.
    pub async fn wait(&mut self) {
        let wait = self.0;
        self.0 = wait.saturating_mul(2).min(MAX);
        tokio::time::sleep(wait).await;
    }

    /// Resets the delay to 100 ms after a successful attempt.
    pub const fn reset(&mut self) {
        self.0 = MIN;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn doubles_up_to_five_seconds() {
        let mut backoff = Backoff::new();
        for milliseconds in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let start = Instant::now();
            backoff.wait().await;
            assert_eq!(start.elapsed(), Duration::from_millis(milliseconds));
        }
        backoff.reset();
        let start = Instant::now();
        backoff.wait().await;
        assert_eq!(start.elapsed(), MIN);
    }
}
