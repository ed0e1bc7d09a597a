//! The exit statuses.

use std::process::ExitCode;

/// An exit status. The man page lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The verb succeeded.
    Success = 0,
    /// The verb failed, or its answer is negative.
    Failure = 1,
    /// The command line is invalid. clap exits with the same status.
    Usage = 2,
    /// The bus or a hypervisor is unavailable, or a service is not running or does not reply.
    Unavailable = 3,
    /// The caller lacks a permission.
    Denied = 4,
    /// The wake has not ended, or the guest has not answered yet. The wake continues.
    Pending = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
