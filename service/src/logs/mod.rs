//! Logs to the journal, syslog or standard error, at levels that a reload can change.

mod ffi;
mod fields;
mod filter;
mod journal;
pub mod kind;
mod quota;
mod text;

use std::ffi::CString;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt as lines, reload};

use fields::ReadableFields;
pub use filter::{FilterError, Level, LogFilter};
pub use quota::Quota;
pub use text::{plain, quoted, shown};

/// Whether this process logs to the journal.
static USES_JOURNAL: AtomicBool = AtomicBool::new(false);

/// The socket of syslog: syslog(3).
const SYSLOG: &str = "/dev/log";

/// The destination of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogTo {
    /// Standard error if it is a terminal; otherwise the first available of the journal, syslog and standard error.
    #[default]
    Auto,
    /// The systemd journal.
    Journal,
    /// Syslog, with the facility "daemon".
    Syslog,
    /// Standard error.
    Stderr,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal cannot be reached.
    #[error("cannot log to the journal: {0}; start systemd-journald, or log elsewhere with --log-to")]
    Journal(io::Error),
    /// There is no syslog socket.
    #[error(
        "cannot log to syslog: {SYSLOG} does not exist; start a syslog daemon, or log elsewhere with --log-to"
    )]
    NoSyslog,
    /// The process already has a log.
    #[error("the log is already open")]
    AlreadyOpen,
}

type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;
type Sink = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log of this process. At its end, the process waits until the journal has read the messages.
#[derive(Debug)]
pub struct Logs(reload::Handle<Targets, Registry>);

impl Logs {
    /// Changes which messages are logged.
    pub fn set_filter(&self, filter: &LogFilter) {
        if let Err(error) = self.0.reload(Targets::from(filter)) {
            tracing::warn!(MESSAGE_ID = kind::LOG_LEVEL_UNCHANGED, "cannot change the log level: {error}");
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        wait_until_read();
    }
}

/// Waits until the journal has read all messages of this process, at most a second. Without it, `journalctl --unit` can
/// lack the last messages before an exit. Does nothing if the process does not log to the journal.
pub fn wait_until_read() {
    if USES_JOURNAL.load(Ordering::Relaxed) {
        // If the journal is not running, there is nothing to wait for.
        let _ = journal::wait_until_read();
    }
}

/// Opens the log of this process. It can be opened once.
///
/// # Errors
/// If the destination is not available, or the log is already open.
pub fn init(filter: &LogFilter, to: LogTo) -> Result<Logs, LogError> {
    let (filter, handle) = reload::Layer::new(Targets::from(filter));
    let sink = match to {
        LogTo::Auto => auto()?,
        LogTo::Journal => journal()?,
        LogTo::Syslog => syslog()?,
        LogTo::Stderr => stderr(),
    };
    tracing_subscriber::registry().with(filter).with(sink).try_init().map_err(|_| LogError::AlreadyOpen)?;
    Ok(Logs(handle))
}

fn auto() -> Result<Sink, LogError> {
    if io::stderr().is_terminal() {
        return Ok(stderr());
    }
    match journal().or_else(|_| syslog()) {
        Err(LogError::NoSyslog) => Ok(stderr()),
        sink => sink,
    }
}

fn journal() -> Result<Sink, LogError> {
    let layer = tracing_journald::layer().map_err(LogError::Journal)?;
    USES_JOURNAL.store(true, Ordering::Relaxed);
    // The fields already use the names that they have in the journal, so they need no prefix.
    Ok(Box::new(layer.with_field_prefix(None).with_syslog_identifier(program())))
}

fn syslog() -> Result<Sink, LogError> {
    if !Path::new(SYSLOG).exists() {
        return Err(LogError::NoSyslog);
    }
    let identity = CString::new(program()).unwrap_or_default();
    let options = syslog_tracing::Options::LOG_PID;
    let writer = syslog_tracing::Syslog::new(identity, options, syslog_tracing::Facility::Daemon)
        .ok_or(LogError::AlreadyOpen)?;
    // Syslog adds the time and receives the level separately.
    let layer = lines::layer().fmt_fields(ReadableFields).without_time().with_level(false);
    Ok(Box::new(layer.with_target(false).with_ansi(false).with_writer(writer)))
}

fn stderr() -> Sink {
    Box::new(
        lines::layer().fmt_fields(ReadableFields).with_target(false).with_ansi(false).with_writer(io::stderr),
    )
}

/// The name of this program, from its command line.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
