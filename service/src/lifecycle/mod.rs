//! Signals to the service, its reports to the service manager, and its exit code.

mod status;
mod watchdog;

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::logs::{self, kind};
use sd_notify::NotifyState;
use tokio::signal::unix::{self, SignalKind};

pub use status::{Warning, clear_warning, set_warning, status};
pub use watchdog::Watchdog;

/// The exit code of a service that cannot run with its configuration, from sysexits.h(3head). A restart does not help
/// until the administrator corrects the configuration, so the units list this code in `RestartPreventExitStatus=`.
const EX_CONFIG: u8 = 78;
/// The exit code of a service that failed for another reason.
const EX_FAILURE: u8 = 1;

/// How long a service that failed to start waits before it exits, under a service manager.
const FAILED_START: Duration = Duration::from_secs(3);

/// The environment variable that requests a newline on standard output when the service is ready: the protocol of s6
/// (`notification-fd` in <https://skarnet.org/software/s6/servicedir.html>).
const NOTIFY_STDOUT: &str = "WAKEVIRT_NOTIFY_STDOUT";

/// Whether the service has reported that it is ready.
static READY: AtomicBool = AtomicBool::new(false);

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: exit cleanly.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Receives the signals that arrive after its creation.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// Installs the handlers. Without them, each of these signals terminates the process. Call this function within the
    /// runtime.
    ///
    /// # Errors
    /// If a signal handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Cancel safe. A request to stop takes precedence over a request to reload.
    pub async fn next(&mut self) -> Signal {
        // A stream of signals never ends (tokio::signal::unix::Signal::recv), so `None` does not occur.
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

/// Reports to the service manager that the service is ready, and what it is doing.
pub fn ready(status: &str) {
    let was_ready = READY.swap(true, Ordering::Relaxed);
    if !was_ready && std::env::var_os(NOTIFY_STDOUT).is_some() {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(b"\n").and_then(|()| out.flush()) {
            tracing::debug!("cannot notify the service manager on standard output: {error}");
        }
    }
    notify(&[NotifyState::Ready, NotifyState::Status(&status::set_activity(status))]);
}

/// Reports to the service manager that the service is about to exit.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Reports the error that makes `program` exit, and returns the exit code.
///
/// The error goes to the log, or to standard error if the log is not open yet. `misconfigured` means that only a change
/// to the configuration can fix the error.
#[must_use]
pub fn exit_code(program: &str, error: &dyn Error, misconfigured: bool) -> u8 {
    if tracing::dispatcher::has_been_set() {
        tracing::error!(MESSAGE_ID = kind::SERVICE_FAILED, "{error}");
        logs::wait_until_read();
    } else {
        // Without standard error, the exit code is the only report.
        let _ = writeln!(io::stderr(), "{program}: {error}");
    }
    if misconfigured { EX_CONFIG } else { failed() }
}

/// The exit code of a service that failed for a reason other than its configuration.
///
/// The service manager restarts it at once and without limit, as it should for a service that has worked. A service
/// that never became ready therefore waits before it exits: otherwise, a persistent error would keep the host busy and
/// fill its log. (systemd 254 and later have `RestartSteps=` for this: systemd.service(5).)
fn failed() -> u8 {
    let has_manager = ["NOTIFY_SOCKET", NOTIFY_STDOUT].iter().any(|name| std::env::var_os(name).is_some());
    if has_manager && !READY.load(Ordering::Relaxed) {
        std::thread::sleep(FAILED_START);
    }
    EX_FAILURE
}

/// Sends a notification. Does nothing if `NOTIFY_SOCKET` is not set.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot notify the service manager of {state:?}: {error}");
    }
}

#[cfg(test)]
mod tests;
