//! The context switches and memory of a process: proc(5).

use std::fs;

use nix::unistd::Pid;

use crate::report::{Aim, Report};

const MIB: f64 = 1024.0 * 1024.0;

/// The number of times that the threads of a process stopped running, so that another one could run.
pub fn context_switches(pid: Pid) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running");
    let statuses =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let of_thread = |status: String| -> u64 {
        let counts = status
            .lines()
            .filter_map(|line| line.split_once("_ctxt_switches:")?.1.trim().parse::<u64>().ok());
        counts.sum()
    };
    statuses.map(of_thread).sum()
}

/// The memory of a process in MiB, with its share of shared memory (PSS), without mappings of sockets: a ring with
/// which the kernel delivers packets belongs to both.
fn memory(pid: Pid) -> f64 {
    pss(pid, |name| !is_socket(name))
}

/// The memory of a process's mappings of sockets in MiB.
pub fn ring_memory(pid: Pid) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root can read it");
    let size = |line: &str| {
        let (range, _) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).ok());
        end?.checked_sub(start?)
    };
    let bytes: u64 = text.lines().filter(|line| is_socket(line)).filter_map(size).sum();
    bytes as f64 / MIB
}

fn is_socket(mapping: &str) -> bool {
    mapping.contains("socket:[")
}

/// The PSS of the mappings whose lines in `/proc/PID/smaps` `counts` accepts, in MiB.
fn pss(pid: Pid, counts: impl Fn(&str) -> bool) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root can read it");
    let (mut counted, mut kib) = (true, 0.0);
    for line in text.lines() {
        let name = line.split_once(':').map(|(name, _)| name);
        if let Some(value) = line.strip_prefix("Pss:") {
            let value: f64 = value.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
            kib += if counted { value } else { 0.0 };
        } else if name.is_none_or(|name| name.contains('-')) {
            // The first line of a mapping begins with its addresses.
            counted = counts(line);
        }
    }
    kib * 1024.0 / MIB
}

/// Reports the memory of processes. `aims` are in MiB.
pub fn report_memory(report: &mut Report, label: &str, processes: &[(&str, Pid, Option<f64>)]) {
    for (name, pid, aim) in processes {
        let (name, memory) = (format!("memory of the {name}, {label}"), memory(*pid));
        match aim {
            Some(aim) => report.aim(&name, "MiB", memory, &[], Aim::AtMost(*aim)),
            None => report.add(&name, "MiB", memory, &[]),
        }
    }
}
