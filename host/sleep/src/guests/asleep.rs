//! The list of the domains that this program has put to sleep: a file in the runtime directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wakevirt_host::sleep::SleepMode;
use wakevirt_service::logs::kind;

use crate::error::Error;

/// The directory that wakevirt-host's tmpfiles.d file creates. The file is valid only until the next boot.
const DIRECTORY: &str = "/run/wakevirt-sleep";
/// The maximum size of the file, in bytes. Only this program writes it.
const MAX_SIZE: u64 = 16 << 20;

/// A domain that was asked to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) how: SleepMode,
}

/// The list.
#[derive(Debug)]
pub(super) struct Asleep(PathBuf);

impl Asleep {
    /// The list of this host.
    pub(super) fn open() -> Self {
        Self::in_directory(Path::new(DIRECTORY))
    }

    fn in_directory(directory: &Path) -> Self {
        Self(directory.join("asleep.json"))
    }

    /// The domains in the list. A file that cannot be read is reported and counts as empty.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let read = || {
            if fs::metadata(&self.0)?.len() > MAX_SIZE {
                return Err(io::Error::other("it is too large"));
            }
            serde_json::from_slice(&fs::read(&self.0)?).map_err(io::Error::other)
        };
        match read() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::error!(
                    MESSAGE_ID = kind::GUEST_NOT_AWAKE,
                    "no domain is brought back: cannot read {}: {error}",
                    self.0.display()
                );
                Vec::new()
            }
        }
    }

    /// Replaces the list. The file is always complete. An empty list is no file.
    ///
    /// # Errors
    /// If the file cannot be written. Then no domain must be put to sleep, because nothing would bring it back.
    pub(super) fn replace(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let written = if entries.is_empty() {
            fs::remove_file(&self.0).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
        } else {
            self.write(&entries)
        };
        written.map_err(|source| Error::List { path: self.0.clone(), source })
    }

    fn write(&self, entries: &[Entry]) -> io::Result<()> {
        let new = self.0.with_extension("new");
        fs::write(&new, serde_json::to_vec(entries).map_err(io::Error::other)?)?;
        fs::rename(&new, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_has_written() {
        let directory = tempfile::tempdir().unwrap();
        let list = Asleep::in_directory(directory.path());
        assert_eq!(list.entries(), []);
        let entry =
            |name: &str, how| Entry { name: name.to_owned(), uuid: Uuid::from_u128(name.len() as u128), how };
        let both = vec![entry("a b", SleepMode::Save), entry("\"", SleepMode::Suspend)];
        list.replace(both.clone()).unwrap();
        assert_eq!(list.entries(), both);
        list.replace(Vec::new()).unwrap();
        assert_eq!(list.entries(), []);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_an_empty_list_and_a_missing_directory_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let list = Asleep::in_directory(directory.path());
        fs::write(&list.0, "[{\"name\"").unwrap();
        assert_eq!(list.entries(), []);
        let list = Asleep::in_directory(&directory.path().join("missing"));
        let entry = Entry { name: "a".to_owned(), uuid: Uuid::nil(), how: SleepMode::Pause };
        let error = list.replace(vec![entry]).unwrap_err().to_string();
        assert!(error.contains("missing/asleep.json"), "{error}");
    }
}
