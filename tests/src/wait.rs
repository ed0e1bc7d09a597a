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
pub fn within<T>(time: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
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
