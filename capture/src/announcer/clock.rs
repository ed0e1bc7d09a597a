//! The time at which a packet is heard.

use rustix::time::{ClockId, Timespec, clock_gettime};
use wakevirt_protocol::Stamp;

/// The time now, by both clocks.
pub(super) fn stamp() -> Stamp {
    Stamp {
        timestamp: microseconds(clock_gettime(ClockId::Realtime)),
        boottime: Some(microseconds(clock_gettime(ClockId::Boottime))),
    }
}

/// A time before the clock's zero counts as zero.
fn microseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec / 1000).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(rest)
}
