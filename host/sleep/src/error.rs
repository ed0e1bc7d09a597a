//! Errors that make the program exit.

use wakevirt_service::{bus, config, logs, user};

use crate::libvirt::LibvirtError;

/// An error that makes the program exit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The log cannot be opened.
    #[error(transparent)]
    Logs(#[from] logs::LogError),
    /// The process could not change its user or drop its capabilities.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// A system resource is unavailable: signals, threads.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// The bus cannot be used.
    #[error(transparent)]
    Bus(#[from] bus::BusError),
    /// libvirt is unavailable, so it is not known whether a domain must sleep first.
    #[error(
        "the host stays awake: {0}, so the running domains are not known; to let the host sleep, set on-failure = \
         \"sleep\" in each [[domain]] table of host.toml that sets sleep"
    )]
    Unknown(LibvirtError),
    /// libvirt is unavailable.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// Domains that must sleep before the host are not asleep.
    #[error("the host stays awake, because these domains do not sleep: {0}")]
    StayAwake(String),
    /// The list of the domains that are asleep cannot be written.
    #[error("cannot write {}, which lists the domains to bring back: {source}; systemd-tmpfiles --create makes its directory", path.display())]
    List {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Some domains could not be brought back or shut down.
    #[error("{0} of {1} domains failed; the messages before this one name the causes")]
    Failed(usize, usize),
}
