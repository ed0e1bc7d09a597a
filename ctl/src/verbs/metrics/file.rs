//! Replaces a file, so that a reader never sees an incomplete one.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Replaces a file. All users can read it.
///
/// There is no fsync(2), because the next run replaces the file.
///
/// # Errors
/// If that fails. Then the old file is unchanged.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    // rename(2) requires the same file system. node_exporter reads only files whose names end with .prom.
    let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        // A process with the same ID may have been killed.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        // The mode does not depend on the umask.
        file.set_permissions(Permissions::from_mode(0o644))?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_file_and_leaves_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wakevirt.prom");
        for text in ["first\n", "second\n"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn leaves_what_it_cannot_replace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wakevirt.prom");
        fs::create_dir_all(path.join("other")).unwrap();
        replace(&path, "text").unwrap_err();
        replace(&directory.path().join("missing/wakevirt.prom"), "text").unwrap_err();
        replace(Path::new("/"), "text").unwrap_err();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert!(path.join("other").is_dir());
    }
}
