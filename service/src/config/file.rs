//! Reads files to which only root or the service's own user can write.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::Uid;

use super::ConfigError;
use super::error::line_at;

/// The maximum size of a configuration file, in bytes.
pub(super) const MAX_SIZE: u64 = 1024 * 1024;

/// Returns the text of a file to which only root and `owner` can write.
///
/// Follows links. Checks the file after opening it, so that another file cannot replace it in between.
pub(super) fn read(path: &Path, owner: Uid) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut file = open(path, Links::Follow).map_err(failed)?;
    check(path, &file.metadata().map_err(failed)?, owner)?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows that the file is too large, even if it grows during the read.
    let length = file.by_ref().take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_SIZE) {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| ConfigError::NotUtf8 {
        path: path.to_owned(),
        line: line_at(error.as_bytes(), error.utf8_error().valid_up_to()),
    })
}

/// What to do with a symbolic link in the last component of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Open the target.
    Follow,
    /// Fail.
    Reject,
}

/// Opens a file for reading. A FIFO without a writer does not block the service, and a terminal does not become
/// its controlling terminal. The caller must check the metadata of the open file, not of the path: another file can
/// replace the one at the path.
///
/// # Errors
/// If the kernel cannot open the file, or if it is a link and `links` is [`Links::Reject`].
pub fn open(path: &Path, links: Links) -> io::Result<File> {
    let mut flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    flags.set(OFlag::O_NOFOLLOW, links == Links::Reject);
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Checks that only root and `owner` can write to the directory, because others could create files or links in it.
/// Returns whether the directory exists.
pub(super) fn check_directory(path: &Path, owner: Uid) -> Result<bool, ConfigError> {
    match path.metadata() {
        Ok(metadata) => check_permissions(path, &metadata, owner).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn check(path: &Path, metadata: &Metadata, owner: Uid) -> Result<(), ConfigError> {
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile { path: path.to_owned() });
    }
    check_permissions(path, metadata, owner)
}

fn check_permissions(path: &Path, metadata: &Metadata, owner: Uid) -> Result<(), ConfigError> {
    let path = || path.to_owned();
    let user = Uid::from_raw(metadata.uid());
    if !user.is_root() && user != owner {
        Err(ConfigError::Owner { path: path(), user })
    } else if metadata.mode() & 0o022 != 0 {
        Err(ConfigError::Writable { path: path(), mode: metadata.mode() & 0o7777 })
    } else {
        Ok(())
    }
}
