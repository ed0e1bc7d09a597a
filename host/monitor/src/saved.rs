//! The monitor that was switched, stored until it is switched back, because the configuration can change in between.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::ddcutil::Switch;

/// The file in the unit's runtime directory.
const FILE: &str = "switch.json";
/// The maximum length of the file, in bytes.
const MAX_LENGTH: u64 = 64 * 1024;

/// Why the stored monitor is not available.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .path.display())]
pub struct SavedError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Stores the monitor in this directory.
///
/// # Errors
/// If the file cannot be written.
pub fn write(directory: &Path, switch: &Switch) -> Result<(), SavedError> {
    let path = directory.join(FILE);
    let written = serde_json::to_vec(switch).map_err(io::Error::from).and_then(|json| fs::write(&path, json));
    written.map_err(|source| SavedError { action: "write", path, source })
}

/// Reads the stored monitor. Returns `None` if no monitor was stored.
///
/// # Errors
/// If the file cannot be read or is invalid.
pub fn read(directory: &Path) -> Result<Option<Switch>, SavedError> {
    let path = directory.join(FILE);
    let read = || -> io::Result<Switch> {
        let mut json = Vec::new();
        File::open(&path)?.take(MAX_LENGTH).read_to_end(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    };
    match read() {
        Ok(switch) => Ok(Some(switch)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SavedError { action: "read", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ddcutil::Display;

    #[test]
    fn returns_what_was_stored() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        for display in
            [Display::Serial("A \"B\"".to_owned()), Display::Model("M".to_owned()), Display::Bus(7)]
        {
            let switch = Switch { display, feature: 0x60, host: 0x0f };
            write(directory.path(), &switch).unwrap();
            assert_eq!(read(directory.path()).unwrap(), Some(switch));
        }
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(read(directory.path()).unwrap_err().to_string().contains("switch.json"));
    }
}
