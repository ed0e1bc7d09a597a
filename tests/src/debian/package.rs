//! The Debian package, as `make deb` builds it.

use std::path::PathBuf;

use crate::host::project;

/// The package that was built last.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn built() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    let folder = target.join("debian");
    let of_ours = |name: &str| name.starts_with("wakevirt_") && name.ends_with(".deb");
    let packages = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    packages
        .filter(|entry| entry.file_name().to_str().is_some_and(of_ours))
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
        .unwrap_or_else(|| panic!("no package in {}: run `make deb` before", folder.display()))
        .path()
}
