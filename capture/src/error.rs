//! The errors of the announcer.

use std::io;
use std::path::PathBuf;

use wakevirt_protocol::sniffer::BadMessage;
use wakevirt_service::{logs, user};

/// Why the service does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] wakevirt_service::config::Error),
    /// The log.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The change of user, or the capabilities.
    #[error(transparent)]
    User(#[from] user::Error),
    /// The bus name is refused, or taken by another.
    #[error(transparent)]
    Bus(#[from] wakevirt_service::bus::Error),
    /// The path of the running program, beside which the sniffer lies.
    #[error("cannot tell where this program lies, and so not where its sniffer does: {0}")]
    OwnPath(#[source] io::Error),
    /// The sniffer is not where it should be.
    #[error("wakevirt-sniffer is missing; it should be {} or {}: install wakevirt again", logs::shown(&.candidates[0]), logs::shown(&.candidates[1]))]
    NoSniffer {
        /// Where it was looked for.
        candidates: [PathBuf; 2],
    },
    /// The sniffer cannot be started.
    #[error("cannot start {}: {error}", logs::shown(.program))]
    Sniffer {
        /// The program.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The sniffer ended, and so does the service.
    #[error("the sniffer exited: {0}; the service exits and must be restarted")]
    SnifferGone(String),
    /// The sniffer says that it cannot go on.
    #[error("the sniffer cannot go on: {0}")]
    SnifferFailed(String),
    /// The sniffer does not get ready.
    #[error("the sniffer did not get ready within {0} s")]
    SnifferSlow(u64),
    /// The sniffer sent what is no message: it is broken, or was taken over.
    #[error("the sniffer sent {0}; it is not trusted any more, and the service ends")]
    BadMessage(#[from] BadMessage),
    /// The sniffer sent a message that contradicts what it said before.
    #[error("the sniffer sent {0}; it is not trusted any more, and the service ends")]
    Contradiction(&'static str),
    /// The socketpair to the sniffer.
    #[error("the socketpair to the sniffer fails: {0}")]
    Channel(#[source] io::Error),
    /// What whoever started the service left open.
    #[error("cannot keep inherited descriptors from the sniffer: {0}; Linux 5.11 or later is needed")]
    Descriptors(#[source] io::Error),
    /// The kernel's news about interfaces.
    #[error("cannot follow the network interfaces: {0}")]
    Interfaces(#[source] io::Error),
    /// The async runtime, or the signals.
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] io::Error),
    /// Randomness for the epoch.
    #[error("cannot get random bytes: {0}")]
    Random(#[source] io::Error),
}
