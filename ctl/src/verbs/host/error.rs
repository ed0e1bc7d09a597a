//! Why a verb about the preparation of the host failed.

use std::io;
use std::path::PathBuf;

use wakevirt_host::state::StateError;
use wakevirt_host::system::{SystemError, SystemdError};

use crate::exit::Exit;

/// Why a verb failed. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A directory with hooks cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory does not contain hooks of a known project.
    #[error(
        "{} contains neither the hooks of VFIO-Tools nor those of portellam's libvirt-hooks; the directory is usually \
         /etc/libvirt/hooks", .0.display()
    )]
    NoHooks(PathBuf),
    /// The state file of wakevirt-host cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The values of the host cannot be read or changed.
    #[error(transparent)]
    System(#[from] SystemError),
}

impl HostError {
    /// The exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::System(SystemError::Systemd(SystemdError::Call { .. })) => Exit::Unavailable,
            Self::Read { .. } | Self::NoHooks(_) | Self::State(_) | Self::System(_) => Exit::Failure,
        }
    }
}
