//! Logs to the journal, syslog or standard error, at a level that a reload can change.

mod quota;
mod text;

use core::fmt;
use core::str::FromStr;
use std::ffi::CString;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt as lines, reload};

pub use quota::Quota;
pub use text::{plain, quoted, shown};

/// The socket of syslog: syslog(3).
const SYSLOG: &str = "/dev/log";

/// The log level. It includes all levels before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Errors that prevent the service from working.
    Error,
    /// Conditions that the administrator should check.
    Warn,
    /// Events.
    #[default]
    Info,
    /// Details of events.
    Debug,
    /// All details.
    Trace,
}

impl Level {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| LogError::Level(text.to_owned()))
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// The destination of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogTo {
    /// Standard error if it is a terminal; otherwise the first available of the journal, syslog, standard error.
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
    /// Not the name of a level.
    #[error("{} is not a log level; choose error, warn, info, debug or trace", quoted(_0))]
    Level(String),
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

type Filtered = Layered<reload::Layer<LevelFilter, Registry>, Registry>;
type Sink = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log of this process.
#[derive(Debug)]
pub struct Logs(reload::Handle<LevelFilter, Registry>);

impl Logs {
    /// Changes the level.
    pub fn set_level(&self, level: Level) {
        if let Err(error) = self.0.reload(LevelFilter::from(level)) {
            tracing::warn!("cannot change the log level: {error}");
        }
    }
}

/// Opens the log of this process. It can be opened once.
///
/// # Errors
/// If the destination is not available, or the log is already open.
pub fn init(level: Level, to: LogTo) -> Result<Logs, LogError> {
    let (filter, handle) = reload::Layer::new(LevelFilter::from(level));
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
    Ok(Box::new(layer.with_syslog_identifier(program())))
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
    let layer = lines::layer().without_time().with_level(false);
    Ok(Box::new(layer.with_target(false).with_ansi(false).with_writer(writer)))
}

fn stderr() -> Sink {
    Box::new(lines::layer().with_target(false).with_ansi(false).with_writer(io::stderr))
}

/// The name of this program, from its command line.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
