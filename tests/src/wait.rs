//! Waits for conditions by polling.

use std::time::{Duration, Instant};

/// The time after which a test fails. It is long because the machine can be busy.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The interval between two checks.
pub(crate) const INTERVAL: Duration = Duration::from_millis(5);

/// Calls `check` until it returns a value, and returns that value.
///
/// # Panics
/// After [`TIMEOUT`], with `what` in the message.
pub fn until<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(TIMEOUT, check).unwrap_or_else(|| panic!("timed out after {TIMEOUT:?} waiting for {what}"))
}

/// Calls `check` until it returns a value, for at most this time.
pub fn within<T>(time: Duration, check: impl FnMut() -> Option<T>) -> Option<T> {
    observe(time, check, Option::is_some).0
}

/// Calls `look` until `accepts` returns true for its value, for at most this time. Returns the last value, and whether
/// it was accepted.
pub fn observe<T>(time: Duration, mut look: impl FnMut() -> T, accepts: impl Fn(&T) -> bool) -> (T, bool) {
    let deadline = Instant::now() + time;
    loop {
        let value = look();
        let accepted = accepts(&value);
        if accepted || Instant::now() >= deadline {
            return (value, accepted);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Calls `check` until it returns true.
///
/// # Panics
/// After [`TIMEOUT`], with `what` in the message.
pub fn until_true(what: &str, mut check: impl FnMut() -> bool) {
    until(what, || check().then_some(()));
}
