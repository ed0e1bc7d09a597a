//! Why new configuration files cannot be written.

use std::io;
use std::path::PathBuf;

use wakevirt_service::logs::quoted;

use crate::exit::Exit;

/// Why new configuration files cannot be written. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The name cannot be used for a unit.
    #[error(
        "{} is not a name for a unit; use at most {max} letters, digits, \"-\", \"_\" and \".\", with a letter or digit \
         first. Names with \"wakevirt-\" first belong to wakevirt", quoted(.name)
    )]
    UnitName {
        /// The name.
        name: String,
        /// Its maximum length, in bytes.
        max: usize,
    },
    /// The name of the executable is invalid.
    #[error("{} is not a name for an executable; use letters, digits, \"-\" and \"_\"", quoted(.0))]
    ExecutableName(String),
    /// The pattern for domains is invalid.
    #[error("{} is not a pattern for domains: {reason}; use a name, or a glob such as \"win*\"", quoted(.text))]
    Pattern {
        /// The argument.
        text: String,
        /// The cause.
        reason: String,
    },
    /// The name cannot be used for a share.
    #[error(
        "{} is not a name for a share; use at most {max} lower-case letters, digits and \"-\", with a letter first",
        quoted(.name)
    )]
    ShareName {
        /// The name.
        name: String,
        /// Its maximum length, in bytes.
        max: usize,
    },
    /// The folder cannot be shared.
    #[error("{} cannot be shared: {reason}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause, and what to do.
        reason: String,
    },
    /// The network cannot be used for a share.
    #[error("the network {} cannot be used for a share: {reason}", quoted(.name))]
    Network {
        /// Its name.
        name: String,
        /// The cause, and what to do.
        reason: String,
    },
    /// All networks for shares are in use.
    #[error(
        "no free network is left in {0}; define an isolated network yourself, and name it with --network"
    )]
    NoSubnet(&'static str),
    /// A file exists. It belongs to the administrator.
    #[error("{} exists, and was left unchanged; nothing was written. Use another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The caller cannot write the files.
    #[error("writing these files requires root; run: {0}")]
    NeedsRoot(String),
    /// A file cannot be written.
    #[error("cannot write {}: {source}; nothing was written", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl NewError {
    /// The exit status.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NeedsRoot(_) => Exit::Denied,
            Self::UnitName { .. }
            | Self::ExecutableName(_)
            | Self::ShareName { .. }
            | Self::Pattern { .. } => Exit::Usage,
            Self::Folder { .. }
            | Self::Network { .. }
            | Self::NoSubnet(_)
            | Self::Exists(_)
            | Self::Write { .. } => Exit::Failure,
        }
    }
}
