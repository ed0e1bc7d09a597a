//! Reads `/proc/PID`: proc(5).

use std::collections::HashMap;
use std::process::Child;
use std::time::Duration;
use std::{fs, io};

use nix::unistd::Pid;

/// The process ID of a child of this process.
#[must_use]
pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("process IDs fit into pid_t"))
}

/// The children of a process, oldest first. Empty if the process does not exist.
#[must_use]
pub fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .map(Pid::from_raw)
        .collect()
}

/// A process and all its descendants, in no particular order.
#[must_use]
pub fn tree(pid: Pid) -> Vec<Pid> {
    let mut left = vec![pid];
    let mut found = Vec::new();
    while let Some(pid) = left.pop() {
        left.extend(children(pid));
        found.push(pid);
    }
    found
}

/// The file name of the program that a process runs, without its directory.
#[must_use]
pub fn program(pid: Pid) -> Option<String> {
    let file = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(file.file_name()?.to_string_lossy().into_owned())
}

/// The CPU time of all threads of a process, with nanosecond resolution.
///
/// `utime` and `stime` in `/proc/PID/stat` have a resolution of only 10 ms.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn cpu_time(pid: Pid) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running");
    let time = |path| -> Option<u64> { fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok() };
    let times = threads.flatten().filter_map(|thread| time(thread.path().join("schedstat")));
    Duration::from_nanos(times.sum())
}

/// `/proc/PID/status`: the fields by name, such as `Uid`, `CapEff`, `NoNewPrivs`, `Seccomp`.
#[derive(Debug, Clone)]
pub struct Status(HashMap<String, String>);

impl Status {
    /// Reads the status of a process.
    ///
    /// # Panics
    /// If there is no such process.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        Self::if_exists(pid).unwrap_or_else(|error| panic!("no process {pid}: {error}"))
    }

    /// Reads the status of a process that might exit meanwhile.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn if_exists(pid: Pid) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().replace('\t', " ")))
        };
        Ok(Self(text.lines().filter_map(field).collect()))
    }

    /// The value of a field. Its parts are separated by single spaces.
    ///
    /// # Panics
    /// If there is no such field.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("/proc/PID/status has no {name}"))
    }

    /// A capability set (`CapInh`, `CapPrm`, `CapEff`, `CapBnd`, `CapAmb`), with one bit for each capability:
    /// capabilities(7).
    ///
    /// # Panics
    /// If there is no such set.
    #[must_use]
    pub fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(self.field(set), 16).expect("a set of capabilities is a hexadecimal number")
    }

    /// The effective user ID.
    ///
    /// # Panics
    /// If the field is missing.
    #[must_use]
    pub fn effective_uid(&self) -> u32 {
        self.field("Uid").split(' ').nth(1).and_then(|uid| uid.parse().ok()).expect("four user IDs")
    }
}
