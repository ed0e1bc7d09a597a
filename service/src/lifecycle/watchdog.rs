//! The sign of life that a service manager waits for: sd_watchdog_enabled(3).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::notify;

/// The longest time between two signs; the environment may say anything.
const LONGEST: Duration = Duration::from_secs(3600);

/// The sign of life that a service manager waits for, if it does.
///
/// It belongs into the loop that does the service's work: one that hangs gives none, and the service
/// manager starts the service again.
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// What the service manager asks for in the environment (`WATCHDOG_USEC`, `WATCHDOG_PID`). Call it
    /// within the runtime.
    #[must_use]
    pub fn from_env() -> Self {
        // Half the time, as the manual page recommends.
        let every =
            sd_notify::watchdog_enabled().map(|time| (time / 2).min(LONGEST)).filter(|time| !time.is_zero());
        Self(every.map(|every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    /// Whether anybody waits for a sign.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until a sign is due; for ever where nobody waits for one. Nothing is lost when it is given up.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Gives a sign of life.
    pub fn alive(&self) {
        notify(&[NotifyState::Watchdog]);
    }
}
