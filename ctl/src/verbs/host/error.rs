//! Why a verb about the preparation of the host failed.

use std::io;
use std::path::PathBuf;

use wakevirt_host::state::StateError;
use wakevirt_host::system::{SystemError, SystemdError};
use wakevirt_service::config::ConfigError;
use wakevirt_service::logs::quoted;

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
    /// The configuration is invalid.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// The configuration does not contain the domain.
    #[error(
        "no [[domain]] table in host.toml matches {}, so the host is not prepared for it; see wakevirt-host.toml(5)",
        quoted(_0)
    )]
    NotConfigured(String),
    /// libvirt has no domain with this name.
    #[error(
        "libvirt has no domain with the name or UUID {}; \"virsh list --all\" lists all domains",
        quoted(_0)
    )]
    NoSuchDomain(String),
    /// virsh(1) failed.
    #[error("{command} failed: {reason}")]
    Virsh {
        /// The command.
        command: String,
        /// The cause.
        reason: String,
    },
    /// The caller is not root.
    #[error("changing the host requires root; run: {command}")]
    NeedsRoot {
        /// The command to run.
        command: &'static str,
    },
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
            Self::NeedsRoot { .. } => Exit::Denied,
            Self::Virsh { .. } | Self::System(SystemError::Systemd(SystemdError::Call { .. })) => {
                Exit::Unavailable
            }
            _ => Exit::Failure,
        }
    }
}
