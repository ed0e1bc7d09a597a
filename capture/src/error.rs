//! The errors of the announcer.

use std::io;
use std::path::PathBuf;

use wakevirt_protocol::sniffer::BadMessage;
use wakevirt_service::{logs, user};

/// The service cannot start or cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] wakevirt_service::config::ConfigError),
    /// Logging cannot be set up.
    #[error(transparent)]
    Logs(#[from] logs::LogError),
    /// The user cannot be changed, or the capabilities cannot be dropped.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The bus does not allow the service to own its name, or another process owns it.
    #[error(transparent)]
    Bus(#[from] wakevirt_service::bus::BusError),
    /// The path of the running program is unknown. The sniffer's path depends on it.
    #[error("cannot find the sniffer: the path of this program is unknown: {0}")]
    OwnPath(#[source] io::Error),
    /// The sniffer's program file does not exist.
    #[error("wakevirt-sniffer not found at {} or {}; reinstall wakevirt", logs::shown(&.candidates[0]), logs::shown(&.candidates[1]))]
    SnifferNotFound {
        /// The paths that were searched.
        candidates: [PathBuf; 2],
    },
    /// The sniffer cannot be started.
    #[error("cannot start {}: {error}", logs::shown(.program))]
    StartSniffer {
        /// The program.
        program: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The sniffer exited without a failure report. The string describes how it exited.
    #[error("sniffer exited ({0}); capture will exit, and the service manager will restart both")]
    SnifferExited(String),
    /// The sniffer reported that it cannot continue.
    #[error("sniffer failed: {0}")]
    SnifferFailed(String),
    /// The sniffer did not send `Ready` in time.
    #[error("sniffer was not ready within {0} s")]
    SnifferTimeout(u64),
    /// The sniffer sent bytes that are not a valid message.
    #[error("sniffer sent {0}; exiting, because the sniffer may be compromised")]
    BadMessage(#[from] BadMessage),
    /// The sniffer sent a message that contradicts an earlier one.
    #[error("sniffer sent {0}; exiting, because the sniffer may be compromised")]
    UnexpectedMessage(&'static str),
    /// The socketpair to the sniffer failed.
    #[error("socketpair to the sniffer failed: {0}")]
    Channel(#[source] io::Error),
    /// Inherited descriptors cannot be hidden from the sniffer.
    #[error(
        "cannot set close-on-exec on inherited descriptors: {0}; mount /proc, or use Linux 5.11 or later"
    )]
    Descriptors(#[source] io::Error),
    /// The network interfaces cannot be listed or monitored.
    #[error("cannot monitor the network interfaces: {0}")]
    Interfaces(#[source] io::Error),
    /// The async runtime or the signal handlers cannot be set up.
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] io::Error),
    /// The kernel did not return random bytes for the epoch.
    #[error("cannot get random bytes: {0}")]
    Random(#[source] io::Error),
}
