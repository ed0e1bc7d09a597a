//! The monitor that was switched, stored until it is switched back, because the configuration can change in between.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wakevirt_host::config::Monitor;
use wakevirt_service::unit_name::systemd_escape;

/// The maximum length of the file, in bytes.
const MAX_LENGTH: u64 = 64 * 1024;

/// Why the monitor cannot be stored or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .path.display())]
pub struct SavedError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Deserialize)]
struct Saved {
    monitor: Monitor,
}

/// The domain's file in the unit's runtime directory. Its format is that of `host.toml`.
fn file(directory: &Path, domain: &str) -> PathBuf {
    directory.join(format!("{}.toml", systemd_escape(domain)))
}

/// Stores the domain's monitor in this directory.
///
/// # Errors
/// If the file cannot be written.
pub fn write(directory: &Path, domain: &str, monitor: &Monitor) -> Result<(), SavedError> {
    let path = file(directory, domain);
    let written = fs::write(&path, format!("monitor = {monitor}\n"));
    written.map_err(|source| SavedError { action: "write", path, source })
}

/// Removes the domain's monitor from this directory.
///
/// # Errors
/// If the file cannot be removed.
pub fn remove(directory: &Path, domain: &str) -> Result<(), SavedError> {
    let path = file(directory, domain);
    fs::remove_file(&path).map_err(|source| SavedError { action: "remove", path, source })
}

/// Reads the domain's monitor. Returns `None` if no monitor was stored.
///
/// # Errors
/// If the file cannot be read or is invalid.
pub fn read(directory: &Path, domain: &str) -> Result<Option<Monitor>, SavedError> {
    let path = file(directory, domain);
    let read = || -> io::Result<Monitor> {
        let mut text = String::new();
        File::open(&path)?.take(MAX_LENGTH).read_to_string(&mut text)?;
        toml::from_str(&text).map(|saved: Saved| saved.monitor).map_err(io::Error::other)
    };
    match read() {
        Ok(monitor) => Ok(Some(monitor)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SavedError { action: "read", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use wakevirt_host::config::MonitorId;

    use super::*;

    #[test]
    fn returns_what_was_stored() {
        let directory = tempfile::tempdir().unwrap();
        let domain = "../win \"11\"";
        assert_eq!(read(directory.path(), domain).unwrap(), None);
        for id in [
            MonitorId::Serial("A \"B\" \\ 'c'".to_owned()),
            MonitorId::Model("Ü 4K".to_owned()),
            MonitorId::Bus(7),
        ] {
            let monitor = Monitor { id, vm: 0x11, host: 0x1d0, feature: 0x60 };
            write(directory.path(), domain, &monitor).unwrap();
            assert_eq!(read(directory.path(), domain).unwrap(), Some(monitor));
            assert_eq!(read(directory.path(), "other").unwrap(), None);
        }
        fs::write(file(directory.path(), domain), "{").unwrap();
        assert!(read(directory.path(), domain).unwrap_err().to_string().contains(".toml"));
        remove(directory.path(), domain).unwrap();
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
