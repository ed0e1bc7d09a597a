//! The kernel's clocks, in microseconds.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_REALTIME: microseconds since 1970-01-01 00:00 UTC.
#[must_use]
pub fn realtime() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

/// CLOCK_BOOTTIME: microseconds since boot, including the time that the host sleeps.
#[must_use]
pub fn boottime() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Linux has had both clocks since 2.6.39, so reading them does not fail.
fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, microseconds)
}

/// A time before the clock's zero counts as zero.
fn microseconds(time: TimeSpec) -> u64 {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec() / 1000).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_to_microseconds() {
        assert_eq!(microseconds(TimeSpec::new(2, 3_999)), 2_000_003);
        assert_eq!(microseconds(TimeSpec::new(-1, 0)), 0);
    }

    #[test]
    fn reads_both_clocks() {
        let before = boottime();
        assert!(before > 0 && boottime() >= before);
        assert!(realtime() > 1_700_000_000_000_000, "after 2023");
    }
}
