//! The Debian packages that `make deb` builds.

use std::path::PathBuf;

use crate::host::project;

/// The path of the newest `wakevirt` package.
///
/// # Panics
/// If there is no package.
#[must_use]
pub fn built() -> PathBuf {
    named("wakevirt")
}

/// The path of the newest `wakevirt-cockpit` package.
///
/// # Panics
/// If there is no package.
#[must_use]
pub fn cockpit() -> PathBuf {
    named("wakevirt-cockpit")
}

/// The path of the newest `wakevirt-host` package.
///
/// # Panics
/// If there is no package.
#[must_use]
pub fn host() -> PathBuf {
    named("wakevirt-host")
}

fn named(package: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    let directory = target.join("debian");
    let start = format!("{package}_");
    let is_package = |name: &str| name.starts_with(&start) && name.ends_with(".deb");
    let packages = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    packages
        .filter(|entry| entry.file_name().to_str().is_some_and(is_package))
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
        .unwrap_or_else(|| {
            panic!("there is no {package} package in {}: run `make deb` first", directory.display())
        })
        .path()
}
