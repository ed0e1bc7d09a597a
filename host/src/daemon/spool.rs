//! The spool: files that libvirt's hook writes, one for each event.

use std::fs::{read_dir, remove_file};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wakevirt_protocol::host::{MAX_ENTRIES, MAX_NAME, MAX_XML, Operation, entry_operation, entry_parts};
use wakevirt_service::config::{self, Links};

/// The maximum number of directory entries that are read. The hook does not add entries beyond [`MAX_ENTRIES`].
const MAX_FILES: usize = 4 * MAX_ENTRIES;
/// The maximum size of an entry, in bytes: the name, a NUL byte and the XML.
const MAX_ENTRY: usize = MAX_NAME + 1 + MAX_XML;

/// An event in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What happened.
    pub operation: Operation,
    /// When it happened (CLOCK_BOOTTIME).
    pub time: Duration,
    /// The domain's name.
    pub name: String,
    /// The domain's XML. Empty if it was too long.
    pub xml: String,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Spool(PathBuf);

impl Spool {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// The names of the entries, oldest first.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let names = read_dir(&self.0)?
            .take(MAX_FILES)
            .flatten()
            .filter_map(|file| file.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| entry_operation(name).is_some()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// If it does not belong to root, is too large or is not an entry.
    pub(super) fn read(&self, file: &str) -> io::Result<Entry> {
        let operation =
            entry_operation(file).ok_or_else(|| io::Error::other("its name is not that of an event"))?;
        let opened = config::open(&self.0.join(file), Links::Reject)?;
        let metadata = opened.metadata()?;
        // Another process of this user could add files to the spool as well.
        if !metadata.is_file() || metadata.uid() != 0 {
            return Err(io::Error::other("it is not a file of root"));
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_ENTRY).unwrap_or(u64::MAX);
        opened.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_ENTRY {
            return Err(io::Error::other(format!("it is larger than {MAX_ENTRY} bytes")));
        }
        let (name, xml) = entry_parts(&bytes).ok_or_else(|| io::Error::other("it contains no domain"))?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(io::Error::other("the domain's name is empty or too long"));
        }
        let name =
            core::str::from_utf8(name).map_err(|_| io::Error::other("the domain's name is not UTF-8"))?;
        // The parser rejects XML with replaced characters, if they matter.
        let xml = String::from_utf8_lossy(xml).into_owned();
        Ok(Entry { operation, time: time(file), name: name.to_owned(), xml })
    }

    /// Removes an entry.
    pub(super) fn remove(&self, file: &str) -> io::Result<()> {
        match remove_file(self.0.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The time in the name of an entry, which [`entry_operation`] has checked.
fn time(file: &str) -> Duration {
    let nanoseconds: Option<u64> = file.split_once('-').and_then(|(time, _)| time.parse().ok());
    nanoseconds.map(Duration::from_nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    #[test]
    fn lists_entries_in_chronological_order() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path());
        let names = ["00000000010000000000-1.release", "00000000002000000000-7.prepare"];
        for name in names.iter().chain(&["x", ".tmp", "1-1.prepare"]) {
            write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(spool.list().unwrap(), [names[1], names[0]]);
        spool.remove(names[1]).unwrap();
        spool.remove(names[1]).unwrap();
        assert_eq!(spool.list().unwrap(), [names[0]]);
    }

    #[test]
    fn reads_only_files_of_root() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path());
        let name = "00000000010000000000-1.started";
        write(directory.path().join(name), "a b\0<domain/>").unwrap();
        let read = spool.read(name);
        if rustix::process::geteuid().is_root() {
            let entry = Entry {
                operation: Operation::Started,
                time: Duration::from_secs(10),
                name: "a b".to_owned(),
                xml: "<domain/>".to_owned(),
            };
            assert_eq!(read.unwrap(), entry);
            std::os::unix::fs::chown(directory.path().join(name), Some(1), None).unwrap();
        }
        assert!(spool.read(name).unwrap_err().to_string().contains("root"));
    }

    #[test]
    fn rejects_unknown_content() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path());
        let name = "00000000010000000000-1.started";
        for content in [&b""[..], b"a", b"\0<domain/>", b"\xff\0<domain/>"] {
            write(directory.path().join(name), content).unwrap();
            spool.read(name).unwrap_err();
        }
        write(directory.path().join(name), vec![b'a'; MAX_ENTRY + 1]).unwrap();
        assert!(spool.read(name).unwrap_err().to_string().contains("larger"));
        std::fs::remove_file(directory.path().join(name)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join(name)).unwrap();
        spool.read(name).unwrap_err();
        spool.read("x").unwrap_err();
    }
}
