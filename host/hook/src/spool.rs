//! The spool: one file for each event.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, AtFlags, CWD, Dir, Gid, Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use wakevirt_protocol::host::{MAX_BYTES, MAX_ENTRIES, MAX_XML, Operation, SPOOL, entry_name};

/// Adds an event with the domain's XML from standard input to the spool, and returns the name of its file. The XML is
/// empty if it is longer than [`MAX_XML`] or incomplete at the deadline.
///
/// The file has no name until it is complete, so that a failure leaves nothing behind and no other process can change
/// it.
pub fn add(name: &[u8], operation: Operation, xml_deadline: Instant) -> io::Result<String> {
    let directory = fs::open(SPOOL, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let status = fs::fstat(&directory)?;
    if status.st_uid != 0 || Mode::from_raw_mode(status.st_mode).contains(Mode::WOTH) {
        return Err(io::Error::other(format!(
            "{SPOOL} does not belong to root, or any user can write to it"
        )));
    }
    require_space(&directory)?;
    require_file_size()?;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = fs::openat(&directory, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode)?;
    fs::fchown(&file, None, Some(Gid::from_raw(status.st_gid)))?;
    // libvirt's umask does not apply.
    fs::fchmod(&file, mode)?;
    write(&file, name)?;
    write(&file, b"\0")?;
    if !copy(io::stdin().lock().as_fd(), &file, xml_deadline)? {
        fs::ftruncate(&file, name.len() as u64 + 1)?;
    }
    let time = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let entry = entry_name(time, std::process::id(), operation);
    // The path names the open file: open(2), O_TMPFILE.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::linkat(CWD, path, &directory, entry.as_str(), AtFlags::SYMLINK_FOLLOW)?;
    Ok(entry)
}

/// Raises the limit for the size of files, because a write beyond it would kill the process (SIGXFSZ).
fn require_file_size() -> io::Result<()> {
    let maximum = getrlimit(Resource::Fsize).maximum;
    if maximum.is_some_and(|maximum| maximum < MAX_BYTES) {
        return Err(io::Error::other("the process may not write files of this size (RLIMIT_FSIZE)"));
    }
    Ok(setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum })?)
}

/// Fails if the spool is full.
fn require_space(directory: &OwnedFd) -> io::Result<()> {
    let (mut entries, mut bytes) = (0, 0);
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        entries += 1;
        // The service can delete the file at the same time.
        if let Ok(status) = fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            bytes += u64::try_from(status.st_size).unwrap_or(0);
        }
        if entries >= MAX_ENTRIES || bytes >= MAX_BYTES {
            return Err(io::Error::other("it is full, because wakevirt-host does not read it"));
        }
    }
    Ok(())
}

/// Copies at most [`MAX_XML`] bytes. Returns whether it reached the end of the input before the deadline.
fn copy(input: BorrowedFd<'_>, file: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    let mut buffer = [0; 64 << 10];
    let mut copied = 0;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).unwrap_or_default();
        match poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let length = rustix::io::retry_on_intr(|| rustix::io::read(input, &mut buffer))?;
        let chunk = buffer.get(..length).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(true);
        }
        copied += chunk.len();
        if copied > MAX_XML {
            return Ok(false);
        }
        write(file, chunk)?;
    }
}

fn write(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
