//! The `wakevirt-host` service: receives events from libvirt's hook, and prepares the host.

mod listener;
mod options;
mod qemu;
mod spool;
mod worker;

use std::io::{self, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use tokio::sync::{mpsc, watch};
use wakevirt_protocol::host::{SOCKET, SPOOL};
use wakevirt_service::lifecycle::{self, Signal, Signals, Warning, Watchdog};
use wakevirt_service::logs::{self, Logs, kind};
use wakevirt_service::{config, user};

use crate::config::{Config, Settings};
use crate::state;
use crate::system::{Sysfs, System, Systemd};
pub use options::Options;
use spool::Spool;
use worker::Worker;

/// The service's own user.
pub const USER: &str = "wakevirt-host";
/// The maximum number of events that are queued for the worker. Further connections wait.
const REQUESTS: usize = 64;

/// An error that makes the service exit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The log cannot be opened.
    #[error(transparent)]
    Logs(#[from] logs::LogError),
    /// The process could not change its user or drop its capabilities.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The socket cannot be used.
    #[error("cannot listen on {SOCKET}: {0}; start wakevirt-host.socket, or start the service as root")]
    Socket(io::Error),
    /// A system resource is unavailable: signals, threads, standard output.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The part that changes the host has ended.
    #[error("the worker ended")]
    Ended,
}

/// Runs the service until a signal asks it to exit.
///
/// # Errors
/// If the service cannot start.
pub fn run(options: &Options) -> Result<(), Error> {
    // Only root can create the socket if the service manager does not pass one.
    let socket = if options.common.check {
        None
    } else {
        Some(listener::open(Path::new(SOCKET)).map_err(Error::Socket)?)
    };
    user::change_to(USER, &[], &[])?;
    user::drop_capabilities()?;
    let config = Config::load(options.common.config.as_deref(), USER)?;
    let Some(socket) = socket else { return check(options, &config) };
    let logs = logs::init(&config.log, options.common.log_to)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let result = runtime.block_on(serve(options, config, socket, &logs));
    lifecycle::stopping();
    // Do not wait for the kernel. A restarted service continues with the state file.
    runtime.shutdown_background();
    result
}

fn check(options: &Options, config: &Config) -> Result<(), Error> {
    if options.common.quiet {
        return Ok(());
    }
    writeln!(io::stdout().lock(), "# The configuration is valid:\n{config}").map_err(Error::Start)
}

/// Runs the tasks until a signal stops the process.
async fn serve(options: &Options, config: Config, socket: UnixListener, logs: &Logs) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Start)?;
    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let (config_in, config) = watch::channel(config);
    let state = state::read(state::FILE.as_ref()).unwrap_or_else(|error| {
        tracing::error!(
            MESSAGE_ID = kind::HOST_STATE_NOT_RESTORED,
            "{error}; what the previous process changed on the host remains"
        );
        None
    });
    warn_without_systemd(&config.borrow());
    let system = System::new(Sysfs::default(), Systemd::new(options.common.bus.clone()));
    let spool = Spool::new(Path::new(SPOOL));
    let (worker, failures) = Worker::new(system, spool, config.clone(), state.unwrap_or_default());
    let worker = tokio::spawn(worker.run(requests, failures));
    let listener = tokio::spawn(listener::run(socket, requests_in, config));
    let main = async {
        let mut watchdog = Watchdog::from_env();
        lifecycle::ready("waiting for domains");
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return,
                    Signal::Reload => reload(options, logs, &config_in),
                },
                () = watchdog.due() => watchdog.notify(),
            }
        }
    };
    tokio::select! {
        () = main => Ok(()),
        result = listener => Err(result.map_err(io::Error::other).flatten().err().map_or(Error::Ended, Error::Socket)),
        _ = worker => Err(Error::Ended),
    }
}

/// Reports settings that have no effect on a host with another init system.
fn warn_without_systemd(config: &Config) {
    let has_sleep = |settings: &Settings| {
        settings.sleep.is_some() || settings.shutdown.is_some() || settings.nosleep.is_some()
    };
    let needs_systemd = |settings: &Settings| !settings.systemd_keys().is_empty() || has_sleep(settings);
    if !Sysfs::default().has_systemd() && config.any(needs_systemd) {
        tracing::warn!(
            MESSAGE_ID = kind::SYSTEMD_NEEDED,
            "isolate, weight, monitor, sleep, shutdown and nosleep have no effect: they need systemd, which this host does not run"
        );
    }
}

/// Reads the configuration again. It applies to events from now on.
fn reload(options: &Options, logs: &Logs, current: &watch::Sender<Config>) {
    match Config::load(options.common.config.as_deref(), USER) {
        Ok(config) => {
            tracing::info!(MESSAGE_ID = kind::CONFIGURATION_RELOADED, "configuration reloaded");
            lifecycle::clear_warning(Warning::Reload);
            logs.set_filter(&config.log);
            warn_without_systemd(&config);
            current.send_replace(config);
        }
        Err(error) => {
            tracing::error!(
                MESSAGE_ID = kind::RELOAD_FAILED,
                "reload failed: {error}; the old configuration remains in use"
            );
            lifecycle::set_warning(Warning::Reload, &format!("the last reload failed: {error}"));
        }
    }
}

/// Reports the error that makes the service exit, and returns the exit code.
#[must_use]
pub fn exit_code(error: &Error) -> u8 {
    lifecycle::exit_code("wakevirt-host", error, matches!(error, Error::Config(_)))
}
