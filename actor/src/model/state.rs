//! What a domain does, in the words of `virsh domstate --reason`.

use core::fmt;

/// What a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for a resource.
    Running,
    /// It does not run.
    ShutOff,
    /// It does not run, and its next start restores what was saved, as far as is known.
    Saved,
    /// It does not run here: it has migrated to another host, where it may use the same disks.
    MigratedAway,
    /// It is there and does not run.
    Paused(Pause),
    /// It was asked to shut down and is still there.
    ShuttingDown,
    /// It has crashed and is still there.
    Crashed,
    /// The guest has suspended itself.
    Suspended,
    /// The hypervisor does not tell, or tells what this version does not know.
    Unknown,
}

/// Why a domain is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Somebody asked for it.
    User,
    /// It migrates, in or out.
    Migration,
    /// It was saved while it was paused, and is restored. libvirt calls that a migration.
    Restored,
    /// It is being saved.
    Save,
    /// Its memory is being dumped.
    Dump,
    /// A disk has failed.
    IoError,
    /// Its watchdog went off.
    Watchdog,
    /// It was restored from a snapshot that was taken while it was paused.
    FromSnapshot,
    /// It shuts down.
    ShuttingDown,
    /// A snapshot is being taken.
    Snapshot,
    /// The guest has crashed.
    Crashed,
    /// It starts.
    StartingUp,
    /// It migrates, and runs at the other end already.
    PostCopy,
    /// It was to run at the other end of a migration, which failed.
    PostCopyFailed,
    /// A call to the hypervisor failed half-way.
    ApiError,
    /// The hypervisor does not tell.
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
