//! A file with two slots. A record is written into the slot that does not contain the newest one, with one pwrite(2). So
//! the file contains a complete record at any time, even if the process is killed while it writes.
//!
//! Both slots have the same size, half of the file's. A slot begins with a header (integers are little-endian):
//!
//! | offset | size | content |
//! | --- | --- | --- |
//! | 0 | 8 | [`MAGIC`], whose first byte is the version of the format |
//! | 8 | 4 | size of the content |
//! | 12 | 4 | CRC-32 of the sequence number and the content |
//! | 16 | 8 | sequence number of the record: the higher one is newer |
//! | 24 | | the content |

use std::fs::{File, Metadata, rename};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use super::file::{MAX_SIZE, create_anew};

/// The version of the format, which is the first byte of the file.
pub(super) const VERSION: u8 = 10;
const MAGIC: [u8; 8] = [VERSION, b'w', b'a', b'k', b'e', b'v', b'r', b't'];
const HEADER: usize = 24;
/// The size of a slot, in bytes, unless a record needs more: a wake needs about 200.
const SLOT_SIZE: usize = 32 * 1024;

/// The open file.
#[derive(Debug)]
pub(super) struct Slots {
    file: File,
    /// The device and the inode of the file. No other file has the same ones while it is open.
    inode: (u64, u64),
    slot_size: usize,
    /// The sequence number of the next record. Even numbers are in the first slot.
    next: u64,
}

impl Slots {
    /// Writes a new file with this record, and renames it to `path`. The old file can be of any type.
    ///
    /// # Errors
    /// If the file cannot be written, or would be larger than [`MAX_SIZE`].
    pub(super) fn create(path: &Path, content: &[u8]) -> io::Result<Self> {
        let needed = HEADER.saturating_add(content.len());
        // Twice the size, so that a growing state does not need a new file each time.
        let slot_size =
            if needed <= SLOT_SIZE { SLOT_SIZE } else { needed.saturating_mul(2).min(MAX_SIZE / 2) };
        if needed > slot_size {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the state is too large"));
        }
        let new = path.with_extension("new");
        let file = create_anew(&new)?;
        let size = slot_size.saturating_mul(2);
        // Without space for both slots, the file has holes. If one cannot be filled later, the record goes into a new file.
        if fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(size).unwrap_or(i64::MAX)).is_err() {
            file.set_len(u64::try_from(size).unwrap_or(u64::MAX))?;
        }
        let inode = inode(&file.metadata()?);
        let mut slots = Self { file, inode, slot_size, next: 0 };
        slots.write_slot(content)?;
        rename(&new, path)?;
        Ok(slots)
    }

    /// Writes the next record: into its slot or, if that is not possible, into a new file at `path`.
    ///
    /// # Errors
    /// As for [`Slots::create`].
    pub(super) fn write(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        if self.is_at(path) && self.write_slot(content).is_ok() {
            return Ok(());
        }
        *self = Self::create(path, content)?;
        Ok(())
    }

    /// Whether the file is at this path. It may have been removed, renamed, or replaced by another file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|metadata| inode(&metadata) == self.inode)
    }

    fn write_slot(&mut self, content: &[u8]) -> io::Result<()> {
        let record = record(self.next, content).filter(|record| record.len() <= self.slot_size);
        let record = record.ok_or(io::ErrorKind::FileTooLarge)?;
        let offset = if self.next.is_multiple_of(2) { 0 } else { self.slot_size };
        self.file.write_all_at(&record, u64::try_from(offset).unwrap_or(u64::MAX))?;
        self.next = self.next.saturating_add(1);
        Ok(())
    }
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A record with this content. Returns `None` if its size does not fit into the header.
fn record(sequence: u64, content: &[u8]) -> Option<Vec<u8>> {
    let sequence = sequence.to_le_bytes();
    let mut record = Vec::with_capacity(HEADER.saturating_add(content.len()));
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&u32::try_from(content.len()).ok()?.to_le_bytes());
    record.extend_from_slice(&checksum(&sequence, content).to_le_bytes());
    record.extend_from_slice(&sequence);
    record.extend_from_slice(content);
    Some(record)
}

fn checksum(sequence: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(sequence);
    hasher.update(content);
    hasher.finalize()
}

/// The newest complete record in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Newest<'bytes> {
    pub(super) sequence: u64,
    pub(super) content: &'bytes [u8],
    /// Whether the other slot contains a damaged record, which may have been newer.
    pub(super) other_is_damaged: bool,
}

/// Returns `None` if the file contains no complete record.
pub(super) fn newest(file: &[u8]) -> Option<Newest<'_>> {
    let (first, second) = file.split_at_checked(file.len() / 2)?;
    let (newest, other) = match (parse(first), parse(second)) {
        (Some(first), Some(other)) if first.sequence > other.sequence => (first, None),
        (Some(_), Some(second)) => (second, None),
        (Some(first), None) => (first, Some(second)),
        (None, second) => (second?, Some(first)),
    };
    let is_used = |slot: &[u8]| slot.iter().any(|byte| *byte != 0);
    Some(Newest { other_is_damaged: other.is_some_and(is_used), ..newest })
}

/// The record in a slot. Returns `None` if it is damaged, or if there is none.
fn parse(slot: &[u8]) -> Option<Newest<'_>> {
    let rest = slot.strip_prefix(&MAGIC)?;
    let (size, rest) = rest.split_first_chunk()?;
    let (expected, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let content = rest.get(..usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
    let is_complete = checksum(sequence, content) == u32::from_le_bytes(*expected);
    is_complete.then(|| Newest { sequence: u64::from_le_bytes(*sequence), content, other_is_damaged: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }

    fn content(bytes: &[u8]) -> Option<(&[u8], bool)> {
        newest(bytes).map(|newest| (newest.content, newest.other_is_damaged))
    }

    #[test]
    fn the_newest_record_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut slots = Slots::create(&path, b"0").unwrap();
        let inode = path.metadata().unwrap().ino();
        assert_eq!(content(&read(&path)), Some((&b"0"[..], false)));
        for number in 1..6_u8 {
            slots.write(&path, &[number]).unwrap();
            assert_eq!(content(&read(&path)), Some((&[number][..], false)));
        }
        assert_eq!(
            (path.metadata().unwrap().ino(), read(&path).len()),
            (inode, 2 * SLOT_SIZE),
            "the same file"
        );
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    /// A process that is killed can have written any part of a record.
    #[test]
    fn an_incomplete_record_leaves_the_previous_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut slots = Slots::create(&path, b"older").unwrap();
        slots.write(&path, b"previous").unwrap();
        let before = read(&path);
        slots.write(&path, b"newer").unwrap();
        let after = read(&path);
        let written = HEADER + b"newer".len();
        // The record begins with the same bytes as the older one in its slot.
        let first = (0..written).find(|index| before.get(*index) != after.get(*index)).unwrap();
        for end in first + 1..written {
            let torn = [after.get(..end).unwrap(), before.get(end..).unwrap()].concat();
            if torn != after {
                assert_eq!(content(&torn), Some((&b"previous"[..], true)), "{end}");
            }
        }
        assert_eq!(content(&after), Some((&b"newer"[..], false)));
    }

    #[test]
    fn a_record_that_does_not_fit_gets_a_larger_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut slots = Slots::create(&path, b"small").unwrap();
        for size in [SLOT_SIZE - HEADER, SLOT_SIZE - HEADER + 1, 3 * SLOT_SIZE, MAX_SIZE / 2 - HEADER] {
            let large = vec![7; size];
            slots.write(&path, &large).unwrap();
            assert_eq!(content(&read(&path)), Some((large.as_slice(), false)));
        }
        let before = read(&path);
        assert!(slots.write(&path, &vec![7; MAX_SIZE / 2]).is_err());
        assert!(before == read(&path) && before.len() == MAX_SIZE, "the file did not change");
        slots.write(&path, b"small").unwrap();
        assert_eq!(content(&read(&path)), Some((&b"small"[..], false)));
    }

    #[test]
    fn a_removed_or_replaced_file_is_created_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut slots = Slots::create(&path, b"1").unwrap();
        std::fs::remove_file(&path).unwrap();
        slots.write(&path, b"2").unwrap();
        assert_eq!(content(&read(&path)), Some((&b"2"[..], false)));
        std::fs::write(directory.path().join("other"), "").unwrap();
        rename(directory.path().join("other"), &path).unwrap();
        slots.write(&path, b"3").unwrap();
        assert_eq!(content(&read(&path)), Some((&b"3"[..], false)));
        // The file is still in the directory, under another name.
        let renamed = directory.path().join("renamed");
        rename(&path, &renamed).unwrap();
        slots.write(&path, b"4").unwrap();
        assert_eq!(content(&read(&path)), Some((&b"4"[..], false)));
        assert_eq!(content(&read(&renamed)), Some((&b"3"[..], false)));
        // A link to the file, which anything could replace, is replaced as well.
        rename(&path, &renamed).unwrap();
        std::os::unix::fs::symlink(&renamed, &path).unwrap();
        slots.write(&path, b"5").unwrap();
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(content(&read(&path)), Some((&b"5"[..], false)));
    }
}
