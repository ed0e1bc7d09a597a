//! The monitor that was switched, stored until it is switched back, because the configuration can change in between.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wakevirt_host::config::Monitor;

/// The file in the unit's runtime directory. Its format is that of `host.toml`.
const FILE: &str = "monitor.toml";
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

/// Stores the monitor in this directory.
///
/// # Errors
/// If the file cannot be written.
pub fn write(directory: &Path, monitor: &Monitor) -> Result<(), SavedError> {
    let path = directory.join(FILE);
    let written = fs::write(&path, format!("monitor = {monitor}\n"));
    written.map_err(|source| SavedError { action: "write", path, source })
}

/// Reads the stored monitor. Returns `None` if no monitor was stored.
///
/// # Errors
/// If the file cannot be read or is invalid.
pub fn read(directory: &Path) -> Result<Option<Monitor>, SavedError> {
    let path = directory.join(FILE);
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
        assert_eq!(read(directory.path()).unwrap(), None);
        for id in [
            MonitorId::Serial("A \"B\" \\ 'c'".to_owned()),
            MonitorId::Model("Ü 4K".to_owned()),
            MonitorId::Bus(7),
        ] {
            let monitor = Monitor { id, vm: 0x11, host: 0x1d0, feature: 0x60 };
            write(directory.path(), &monitor).unwrap();
            assert_eq!(read(directory.path()).unwrap(), Some(monitor));
        }
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(read(directory.path()).unwrap_err().to_string().contains("monitor.toml"));
    }
}
