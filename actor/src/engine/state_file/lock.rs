//! The lock on the directory: one process at a time reads and writes there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::store::directory;
use crate::Error;

/// Locks the directory for as long as the result lives; `None` where there is no directory, or none that this user may read.
///
/// Call it before [`super::StateFile::open`]: a second instance learns only later that the name on the bus is taken, and
/// would count a crash of the running service, and try its wakes again, before that.
///
/// # Errors
/// If another process has the lock.
pub fn lock() -> Result<Option<File>, Error> {
    lock_directory(&directory())
}

fn lock_directory(directory: &Path) -> Result<Option<File>, Error> {
    // The directory itself, so that no other file is needed. The kernel unlocks it however the process ends.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(directory);
    let file = match opened {
        Ok(file) => file,
        // `StateFile::open` says what that means.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::Start(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::Start(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_has_the_folder() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock_directory(directory.path()).unwrap();
        assert!(first.is_some());
        let error = lock_directory(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
        drop(first);
        assert!(lock_directory(directory.path()).unwrap().is_some(), "it ends with the process");
        assert!(lock_directory(&directory.path().join("none")).unwrap().is_none());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing is left there");
    }
}
