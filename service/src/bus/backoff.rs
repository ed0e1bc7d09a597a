//! Waiting before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt: 100 ms, then twice as long each time, at most 5 s.
#[derive(Debug, Clone)]
pub struct Backoff(Duration);

impl Backoff {
    /// A first wait of 100 ms.
    #[must_use]
    pub const fn new() -> Self {
        Self(FIRST)
    }

    /// Waits; the next wait is longer. A wait that is given up counts as well.
    pub async fn wait(&mut self) {
        let wait = self.0;
        self.0 = wait.saturating_mul(2).min(LONGEST);
        tokio::time::sleep(wait).await;
    }

    /// The attempt succeeded: begins again with 100 ms.
    pub const fn reset(&mut self) {
        self.0 = FIRST;
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
        assert_eq!(start.elapsed(), FIRST);
    }
}
