//! Domain states, with the names that `virsh domstate --reason` prints.

use core::fmt;

/// The state of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is running, or waiting for a resource.
    Running,
    /// It is off.
    ShutOff,
    /// It is off, and its next start is expected to restore a saved state.
    Saved,
    /// It is off on this host: it has migrated to another host, where it may be using the same disks.
    MigratedAway,
    /// It is paused.
    Paused(Pause),
    /// It is shutting down.
    ShuttingDown,
    /// It has crashed, and was preserved.
    Crashed,
    /// The guest has suspended itself.
    Suspended,
    /// The hypervisor does not report the state, or reports one that this version does not know.
    Unknown,
}

/// Why a domain is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// A user paused it.
    User,
    /// It is migrating, from or to this host.
    Migration,
    /// It was saved while it was paused, and then restored. libvirt reports this as a migration.
    Restored,
    /// It is being saved.
    Save,
    /// Its memory is being dumped.
    Dump,
    /// A disk has failed.
    IoError,
    /// Its watchdog has expired.
    Watchdog,
    /// It was restored from a snapshot of a paused domain.
    FromSnapshot,
    /// It is shutting down.
    ShuttingDown,
    /// A snapshot is being taken.
    Snapshot,
    /// The guest has crashed.
    Crashed,
    /// It is starting.
    StartingUp,
    /// It is migrating, and already running on the other host.
    PostCopy,
    /// A post-copy migration to the other host failed.
    PostCopyFailed,
    /// A call to the hypervisor failed halfway.
    ApiError,
    /// The hypervisor does not report the reason.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::ShutOff => "shut off",
            Self::Saved => "shut off (saved)",
            Self::MigratedAway => "shut off (migrated)",
            Self::Paused(pause) => return write!(f, "paused ({pause})"),
            Self::ShuttingDown => "in shutdown",
            Self::Crashed => "crashed",
            Self::Suspended => "pmsuspended",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Migration | Self::Restored => "migrating",
            Self::Save => "saving",
            Self::Dump => "dumping",
            Self::IoError => "I/O error",
            Self::Watchdog => "watchdog",
            Self::FromSnapshot => "from snapshot",
            Self::ShuttingDown => "shutting down",
            Self::Snapshot => "creating snapshot",
            Self::Crashed => "crashed",
            Self::StartingUp => "starting up",
            Self::PostCopy => "post-copy",
            Self::PostCopyFailed => "post-copy failed",
            Self::ApiError => "api error",
            Self::Unknown => "unknown",
        })
    }
}
