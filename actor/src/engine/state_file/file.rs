//! Files in the runtime directory. Nothing in the directory can block the service: each file is read up to a maximum
//! size, and files that are not regular are neither read nor written.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, remove_file};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use wakevirt_service::config;

use crate::privilege::RUNTIME_DIRECTORY;

/// A file that exists only after a clean exit.
const CLEAN_EXIT: &str = "ended";
/// The maximum size of a file, in bytes.
pub(super) const MAX_SIZE: usize = 16 * 1024 * 1024;

/// The runtime directory.
pub(super) fn directory() -> PathBuf {
    let given = std::env::var_os("RUNTIME_DIRECTORY").map(|directories| first(&directories));
    given.unwrap_or_else(|| PathBuf::from(RUNTIME_DIRECTORY))
}

/// The first of the directories that the service manager lists (systemd.exec(5)).
fn first(directories: &OsString) -> PathBuf {
    std::env::split_paths(directories).next().unwrap_or_default()
}

/// Records a clean exit, so that the next process does not count a crash.
pub fn mark_clean_exit() {
    mark_clean_exit_in(&directory());
}

pub(super) fn mark_clean_exit_in(directory: &Path) {
    let mut options = OpenOptions::new();
    // Without the directory there is no state file, and no crash is counted.
    let _ = options.write(true).create_new(true).mode(0o600).open(directory.join(CLEAN_EXIT));
}

/// Returns whether the previous process exited cleanly. Removes the mark, so that a crash of this process is counted.
pub(super) fn take_clean_exit(directory: &Path) -> bool {
    remove_file(directory.join(CLEAN_EXIT)).is_ok()
}

/// Reads a regular file. Returns `None` if it is larger than [`MAX_SIZE`].
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = config::open(path, config::Links::Reject)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_SIZE).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= MAX_SIZE).then_some(bytes))
}

/// Removes the file, if there is one, and creates it for writing.
///
/// # Errors
/// Those of unlink(2) and open(2).
pub(super) fn create_anew(path: &Path) -> io::Result<File> {
    match remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
