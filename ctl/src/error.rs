//! The errors of the program.

use std::io;

use wakevirt_service::logs::quoted;

use crate::client;
use crate::exit::Exit;
use crate::verbs::allow::RuleError;
use crate::verbs::host::{HostError, NewError};
use crate::verbs::{metrics, read, send};

/// Why a verb failed. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call on the bus failed.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// No domain has the name, UUID or MAC address.
    #[error("no domain has the name, UUID or MAC address {}; {}", quoted(.text), advice(.nearest.as_deref()))]
    NoSuchDomain {
        /// The argument.
        text: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// The argument is a glob that no name matches.
    #[error(
        "no domain has a name that matches the pattern {}; \"wakevirtctl list\" lists all domains",
        quoted(_0)
    )]
    NoMatch(String),
    /// The argument is not a glob.
    #[error("{} is not a valid pattern: {reason}", quoted(.text))]
    Glob {
        /// The argument.
        text: String,
        /// The cause.
        reason: String,
    },
    /// The domain has no MAC address.
    #[error(
        "{} has no MAC address, so packets cannot wake it; add a network interface to the domain, or an alias to actor.toml",
        quoted(_0)
    )]
    NoMac(String),
    /// A savefile cannot be read.
    #[error(transparent)]
    Read(#[from] read::Error),
    /// The packets cannot be sent.
    #[error(transparent)]
    Send(#[from] send::Error),
    /// The metrics cannot be written, or no socket was passed.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// A rule cannot be written or removed.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A verb about the preparation of the host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// New configuration files cannot be written.
    #[error(transparent)]
    New(#[from] NewError),
}

impl Error {
    /// Whether the program that reads the output has exited.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        let (Self::Output(error) | Self::Read(read::Error::Write(error))) = self else { return false };
        error.kind() == io::ErrorKind::BrokenPipe
    }

    /// The exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => error.exit(),
            Self::Rule(error) => error.exit(),
            Self::Metrics(error) => error.exit(),
            Self::Host(error) => error.exit(),
            Self::New(error) => error.exit(),
            Self::Glob { .. } => Exit::Usage,
            Self::Output(_)
            | Self::NoMac(_)
            | Self::NoMatch(_)
            | Self::NoSuchDomain { .. }
            | Self::Read(_)
            | Self::Send(_) => Exit::Failure,
        }
    }
}

fn advice(nearest: Option<&str>) -> String {
    let listed = "\"wakevirtctl list\" lists all domains";
    nearest.map_or_else(|| listed.to_owned(), |name| format!("did you mean {}? {listed}", quoted(name)))
}
