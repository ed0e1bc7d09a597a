//! The administrator's own hooks on a host without systemd: executables in `/etc/wakevirt/host.d`. With systemd, they are
//! units instead.
//!
//! The hook starts a second process of this program, the runner, which runs the executables one after the other. The
//! runner continues if the hook no longer waits, so that an executable that hangs neither delays libvirt nor is killed
//! while it changes the host. Only root decides what runs: nothing comes from wakevirt-host.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, read_dir, symlink_metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid, umask};
use wakevirt_protocol::host::{MAX_WAIT, Operation, WAIT};

use crate::syslog;

/// The name of the runner (`argv[0]`). libvirt passes the hook's path instead, and no user can choose it.
pub const RUNNER: &str = "wakevirt-hook-runner";
const DIRECTORY: &str = "/etc/wakevirt/host.d";
/// Exists if systemd is the first process: sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";
/// The directory with the lock of each runner.
const LOCKS: &str = "/run/wakevirt-hook";
/// The maximum number of runners, which can hang.
const MAX_RUNNERS: usize = 64;
/// The maximum number of files in the directory that are considered.
const MAX_FILES: usize = 256;

/// Runs the executables for this event, unless the host has systemd. Waits for them for a limited time from `start`:
/// [`MAX_WAIT`] before a domain starts, and otherwise [`WAIT`].
pub fn run(name: &OsStr, operation: Operation, start: Instant) -> io::Result<()> {
    if operation == Operation::Reconnect || Path::new(SYSTEMD).exists() || find(|_| {})?.is_empty() {
        return Ok(());
    }
    // The same program, even if an upgrade has replaced the file.
    let runner =
        with_clean_environment(Command::new("/proc/self/exe").arg0(RUNNER), name, operation).spawn()?;
    let deadline = start + if operation == Operation::Prepare { MAX_WAIT } else { WAIT };
    let pid = i32::try_from(runner.id()).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).unwrap_or_default();
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

/// The runner: runs the executables in the order of their names. An executable that fails does not prevent the others.
pub fn runner(name: &OsStr, operation: Operation) {
    // The runner is not killed with the terminal or the process group of libvirt's daemon.
    let _ = setsid();
    umask(Mode::WGRP | Mode::WOTH);
    let _lock = match lock() {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            return syslog::warn(&format!(
                "the executables in {DIRECTORY} do not run for {} of {name:?}: {MAX_RUNNERS} earlier ones are still running",
                operation.name()
            ));
        }
        Err(error) => return syslog::warn(&format!("cannot lock a file in {LOCKS}: {error}")),
    };
    let files = find(syslog::warn).unwrap_or_else(|error| {
        syslog::warn(&format!("cannot read {DIRECTORY}: {error}"));
        Vec::new()
    });
    for file in files {
        let status = with_clean_environment(&mut Command::new(&file), name, operation).status();
        let problem = match status {
            Ok(status) if status.success() => continue,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        syslog::warn(&format!("{} failed for {} of {name:?}: {problem}", file.display(), operation.name()));
    }
}

/// Adds the arguments, and removes everything that the process would otherwise inherit from libvirt's daemon.
fn with_clean_environment<'a>(
    command: &'a mut Command,
    name: &OsStr,
    operation: Operation,
) -> &'a mut Command {
    command
        .args([name, operation.name().as_ref()])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// The executables, in the order of their names. Reports those that do not run.
fn find(report: impl Fn(&str)) -> io::Result<Vec<PathBuf>> {
    let entries = match read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    if let Err(problem) = check_writers(Path::new(DIRECTORY)) {
        report(&format!("the executables in {DIRECTORY} do not run: {problem}"));
        return Ok(Vec::new());
    }
    let mut files: Vec<OsString> = entries.take(MAX_FILES).flatten().map(|entry| entry.file_name()).collect();
    files.sort_unstable();
    let mut found = Vec::new();
    for file in files.into_iter().filter(|file| Path::new(file).extension() != Some("toml".as_ref())) {
        let path = Path::new(DIRECTORY).join(&file);
        match check(&path, &file) {
            Ok(true) => found.push(path),
            Ok(false) => {}
            Err(problem) => report(&format!("{} does not run: {problem}", path.display())),
        }
    }
    Ok(found)
}

/// Whether the file is an executable. An error says why an executable must not run.
fn check(path: &Path, name: &OsStr) -> Result<bool, String> {
    let metadata = symlink_metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_symlink() {
        return Err("it is a symbolic link; copy the file instead".to_owned());
    }
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Ok(false);
    }
    // As in run-parts(8): backups of editors and of dpkg do not run.
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    if !name.as_encoded_bytes().iter().all(is_plain) {
        return Err("its name contains other characters than letters, digits, \"-\" and \"_\"".to_owned());
    }
    check_writers(path).map(|()| true)
}

/// Only root must be able to change the file or directory.
fn check_writers(path: &Path) -> Result<(), String> {
    let metadata = symlink_metadata(path).map_err(|error| error.to_string())?;
    if metadata.uid() != 0 {
        return Err("it does not belong to root".to_owned());
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("other users can write to it".to_owned());
    }
    Ok(())
}

/// One of the locks, until it is dropped. `None` if all are held.
fn lock() -> io::Result<Option<File>> {
    match std::fs::DirBuilder::new().mode(0o700).create(LOCKS) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    check_writers(Path::new(LOCKS)).map_err(io::Error::other)?;
    for number in 0..MAX_RUNNERS {
        let path = Path::new(LOCKS).join(number.to_string());
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            result => return Ok(result.map(|()| Some(file))?),
        }
    }
    Ok(None)
}
