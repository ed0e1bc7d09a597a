//! Keep-alive messages for the service manager's watchdog: sd_watchdog_enabled(3).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::notify;

/// The maximum interval; the environment can contain any value.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// Sends keep-alive messages, if the service manager expects them.
///
/// Use it in the main loop of the service: a loop that hangs sends no messages, and the service manager restarts the
/// service.
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// Reads the interval from the environment (`WATCHDOG_USEC`, `WATCHDOG_PID`). Call this function within the
    /// runtime.
    #[must_use]
    pub fn from_env() -> Self {
        // Half the timeout, as the manual page recommends.
        let period = sd_notify::watchdog_enabled()
            .map(|time| (time / 2).min(MAX_INTERVAL))
            .filter(|time| !time.is_zero());
        Self(period.map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    /// Whether the service manager expects messages.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until a message is due; without a watchdog, waits forever. Cancel safe.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Sends a keep-alive message.
    pub fn notify(&self) {
        notify(&[NotifyState::Watchdog]);
    }
}
