//! The open file descriptors of a process: `/proc/PID/fd`, proc(5).

use std::collections::HashMap;
use std::fs;

use nix::unistd::Pid;

/// The files in `/proc/PID/net` that list the sockets of a network namespace, each with the kind of its sockets, and
/// the column with the inodes, counted from 0.
const SOCKETS: [(&str, &str, usize); 8] = [
    ("packet", "packet socket", 8),
    ("raw", "raw socket", 9),
    ("raw6", "raw socket", 9),
    ("udp", "UDP socket", 9),
    ("udp6", "UDP socket", 9),
    ("tcp", "TCP socket", 9),
    ("tcp6", "TCP socket", 9),
    ("unix", "Unix socket", 6),
];

/// The kinds of all open descriptors of a process, sorted: `Unix socket`, `packet socket`, `/dev/null`, `[eventpoll]`.
/// A socket can belong to a network namespace other than that of the process. Sockets are also looked up in the
/// namespace of `other`.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn of(pid: Pid, other: Pid) -> Vec<String> {
    let kinds: HashMap<_, _> = [other, pid].into_iter().flat_map(sockets).collect();
    let directory = format!("/proc/{pid}/fd");
    let descriptors =
        fs::read_dir(&directory).unwrap_or_else(|error| panic!("cannot list {directory}: {error}"));
    let mut all: Vec<String> = descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .map(|target| match target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            // For example, a netlink socket.
            Some(inode) => {
                kinds.get(inode).map_or_else(|| "other socket".to_owned(), |kind| (*kind).to_owned())
            }
            None => target.trim_start_matches("anon_inode:").to_owned(),
        })
        .collect();
    all.sort();
    all
}

fn sockets(pid: Pid) -> Vec<(String, &'static str)> {
    let of_kind = |(file, kind, column): (&str, &'static str, usize)| {
        let list = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        let inode = |line: &str| Some((line.split_whitespace().nth(column)?.to_owned(), kind));
        list.lines().skip(1).filter_map(inode).collect::<Vec<_>>()
    };
    SOCKETS.into_iter().flat_map(of_kind).collect()
}
