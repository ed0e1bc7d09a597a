//! Errors that make the actor exit.

use wakevirt_service::logs::shown;
use wakevirt_service::{bus, config, logs, user};

/// An error that makes the actor exit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// A SecureOn password cannot be read.
    #[error(transparent)]
    SecureOn(#[from] crate::policy::secure_on::SecureOnError),
    /// The log cannot be opened.
    #[error(transparent)]
    Logs(#[from] logs::LogError),
    /// The process could not change its user or drop its capabilities.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// A system resource is unavailable: signals, threads, standard output.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// Another process uses the same runtime directory.
    #[error("another process is using {}; is the service already running? Stop it, or set RUNTIME_DIRECTORY to a different directory", shown(.0))]
    Locked(std::path::PathBuf),
    /// The bus does not grant the name.
    #[error(transparent)]
    Bus(#[from] bus::BusError),
}
