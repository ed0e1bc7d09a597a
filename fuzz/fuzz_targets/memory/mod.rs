//! A file in memory with a path, for code that opens its input itself.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

/// The file, which only this user can read and write.
pub struct MemoryFile(File);

impl MemoryFile {
    pub fn new() -> Self {
        let file =
            File::from(memfd_create("input", MemfdFlags::CLOEXEC).expect("the kernel has memfd_create(2)"));
        file.set_permissions(Permissions::from_mode(0o600)).expect("this process owns the file");
        Self(file)
    }

    /// The path, which only this process can use.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Replaces the content.
    pub fn set(&self, content: &[u8]) {
        self.0.set_len(0).and_then(|()| self.0.write_all_at(content, 0)).expect("there is enough memory");
    }
}
