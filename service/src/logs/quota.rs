//! Limits the number of log lines of one kind.

use std::time::{Duration, Instant};

/// Prevents lines that others can cause from flooding the log. It allows a limited number of lines in each interval. An
/// interval begins with the first line after the previous interval.
#[derive(Debug, Clone)]
pub struct Quota {
    lines: u32,
    per: Duration,
    since: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl Quota {
    /// Allows at most `lines` lines in each interval of `per`.
    #[must_use]
    pub const fn new(lines: u32, per: Duration) -> Self {
        Self { lines, per, since: None, logged: 0, suppressed: 0 }
    }

    /// Allows at most `lines` lines per minute.
    #[must_use]
    pub const fn per_minute(lines: u32) -> Self {
        Self::new(lines, Duration::from_secs(60))
    }

    /// Requests a line. Returns `None` if the caller must suppress it. Otherwise, returns the number of lines that were
    /// suppressed since the last logged line.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= self.per) {
            self.since = Some(now);
            self.logged = 0;
        }
        if self.logged >= self.lines {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.logged += 1;
        Some(core::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppresses_lines_and_counts_them() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quota = Quota::new(2, Duration::from_secs(10));
        assert_eq!(quota.take(at(0)), Some(0));
        assert_eq!(quota.take(at(9)), Some(0));
        assert_eq!(quota.take(at(9)), None);
        assert_eq!(quota.take(at(9)), None);
        assert_eq!(quota.take(at(10)), Some(2), "a new interval");
        assert_eq!(quota.take(at(11)), Some(0), "counted once");
        assert_eq!(quota.take(at(19)), None);
        assert_eq!(quota.take(at(60)), Some(1));
        assert_eq!(quota.take(at(69)), Some(0), "an interval begins with a line");
        assert_eq!(quota.take(at(69)), None);
    }

    #[test]
    fn a_quota_of_zero_suppresses_all_lines() {
        let mut quota = Quota::new(0, Duration::ZERO);
        assert_eq!(quota.take(Instant::now()), None);
    }
}
