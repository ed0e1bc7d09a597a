//! Waiting for what comes sooner or later.

use std::time::{Duration, Instant};

/// How long anything on the bench may take before the test fails. Generous: the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// How often to look.
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// Looks again and again until there is something to see, and returns it.
///
/// # Panics
/// After [`TIMEOUT`], saying `what` did not come.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(TIMEOUT, look).unwrap_or_else(|| panic!("waited {TIMEOUT:?} in vain for {what}"))
}

/// Looks again and again until there is something to see, or the time is over.
pub fn within<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// Waits until it is true.
///
/// # Panics
/// After [`TIMEOUT`], saying `what` did not come.
pub fn until_true(what: &str, mut look: impl FnMut() -> bool) {
    until(what, || look().then_some(()));
}
