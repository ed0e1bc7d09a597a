//! The lock on the runtime directory, which only one process can use at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::file::directory;
use crate::Error;

/// Locks the directory until the result is dropped. Returns `None` if the directory does not exist, or this user cannot
/// read it.
///
/// Call it before [`super::StateFile::open`]. A second process finds out only later that the bus name has an owner. By
/// then it would have counted a crash of the running service, and tried its wakes again.
///
/// # Errors
/// If another process has the lock.
pub fn lock() -> Result<Option<File>, Error> {
    lock_directory(&directory())
}

fn lock_directory(directory: &Path) -> Result<Option<File>, Error> {
    // The lock is on the directory itself, so no lock file is needed. The kernel releases it no matter how the process
    // exits.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(directory);
    let file = match opened {
        Ok(file) => file,
        // `StateFile::open` reports this error.
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
    fn locks_the_directory_for_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock_directory(directory.path()).unwrap();
        assert!(first.is_some());
        let error = lock_directory(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
        drop(first);
        assert!(lock_directory(directory.path()).unwrap().is_some(), "the lock is released");
        assert!(lock_directory(&directory.path().join("none")).unwrap().is_none());
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "locking does not create a file");
    }
}
