//! The CPU time and memory of a process: proc(5).

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::report::Report;

/// The CPU time of all threads of a process, with nanosecond resolution.
///
/// `utime` and `stime` in `/proc/PID/stat` have a resolution of only 10 ms.
pub fn cpu_time(pid: Pid) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running");
    let time = |path| -> Option<u64> { fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok() };
    let times = threads.flatten().filter_map(|thread| time(thread.path().join("schedstat")));
    Duration::from_nanos(times.sum())
}

/// The memory of a process in MiB, with its share of shared memory (PSS).
fn memory(pid: Pid) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("root can read it");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a Pss: line");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib / 1024.0
}

/// Reports the memory of processes.
pub fn report_memory(report: &mut Report, label: &str, processes: &[(&str, Pid)]) {
    for (name, pid) in processes {
        report.add(&format!("memory of the {name}, {label}"), "MiB", memory(*pid), &[]);
    }
}
