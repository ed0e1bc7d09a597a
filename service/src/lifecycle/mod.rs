//! What the service manager and the administrator say, and what is said to them: signals, readiness.

mod status;
mod watchdog;

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{self, SignalKind};

pub use status::{Trouble, begin_trouble, end_trouble, status};
pub use watchdog::Watchdog;

/// How long a start that fails takes, where a service manager waits for it.
const FAILED_START: Duration = Duration::from_secs(3);

/// Whether the service manager was told that the service is ready.
static READY: AtomicBool = AtomicBool::new(false);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: end cleanly.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals that the process gets, from the moment that this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// Takes the signals over; until then each of them ends the process. Call it within the runtime.
    ///
    /// # Errors
    /// If the kernel refuses a signal handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Nothing is lost when it is given up; a wish to stop goes before one to reload.
    pub async fn next(&mut self) -> Signal {
        // A stream of signals never ends (tokio::signal::unix::Signal::recv), so `None` needs no case of its own.
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

/// Tells the service manager that the service is ready, and what it does.
pub fn ready(status: &str) {
    READY.store(true, Ordering::Relaxed);
    notify(&[NotifyState::Ready, NotifyState::Status(&status::work(status))]);
}

/// Tells the service manager that the service is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The exit code of a service that cannot run with its configuration. Starting it again does not help
/// before somebody has corrected that: `EX_CONFIG` of sysexits.h(3head), which the units know as
/// `RestartPreventExitStatus=`.
#[must_use]
pub fn misconfigured() -> ExitCode {
    ExitCode::from(78)
}

/// The exit code of a service that failed otherwise.
///
/// The service manager may start it again at once, as it should where a service ends that has worked,
/// and does so for ever. So one that never got ready waits before it ends: else what keeps it from
/// starting would keep the host busy, and fill its log. (systemd.service(5) has `RestartSteps=` for that
/// since version 254.)
#[must_use]
pub fn failed() -> ExitCode {
    if std::env::var_os("NOTIFY_SOCKET").is_some() && !READY.load(Ordering::Relaxed) {
        std::thread::sleep(FAILED_START);
    }
    ExitCode::FAILURE
}

/// Nothing happens where no service manager asked (`NOTIFY_SOCKET` is not set).
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot tell the service manager {state:?}: {error}");
    }
}

#[cfg(test)]
mod tests;
