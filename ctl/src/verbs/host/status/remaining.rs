//! What remains on isolated CPUs: kernel threads and interrupts, which systemd does not manage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use wakevirt_host::model::CpuSet;

/// The flag of kernel threads in `/proc/PID/stat` (`PF_KTHREAD` in the kernel's `include/linux/sched.h`).
const KERNEL_THREAD: u32 = 0x0020_0000;
/// The position of the flags after the name of the process: proc_pid_stat(5).
const FLAGS: usize = 6;

/// Kernel threads with the same name, such as `ksoftirqd/2` and `ksoftirqd/3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelThreads {
    /// The name without its number.
    pub name: String,
    /// Their number.
    pub count: usize,
    /// The isolated CPUs that they can use.
    pub cpus: CpuSet,
}

/// An interrupt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    /// Its number.
    pub irq: u32,
    /// The names of its handlers.
    pub name: String,
    /// The isolated CPUs that handle it.
    pub cpus: CpuSet,
}

impl KernelThreads {
    /// Its text in the status.
    #[must_use]
    pub fn shown(&self) -> String {
        let count = if self.count > 1 { format!("{} ", self.count) } else { String::new() };
        format!("{count}{} ({})", self.name, self.cpus)
    }
}

impl Interrupt {
    /// Its text in the status.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} {} ({})", self.irq, self.name, self.cpus)
    }
}

/// Returns the kernel threads that can run on these CPUs, in the order of their names.
#[must_use]
pub fn kernel_threads(proc: &Path, isolated: &CpuSet) -> Vec<KernelThreads> {
    let mut threads: BTreeMap<String, KernelThreads> = BTreeMap::new();
    for directory in numbered(proc).into_values() {
        let Some((name, cpus)) = kernel_thread(&directory, isolated) else { continue };
        let entry = threads.entry(name.clone());
        let entry = entry.or_insert_with(|| KernelThreads { name, count: 0, cpus: CpuSet::default() });
        entry.count += 1;
        entry.cpus = entry.cpus.union(&cpus);
    }
    threads.into_values().collect()
}

/// The name of a kernel thread, and the isolated CPUs that it can use.
fn kernel_thread(directory: &Path, isolated: &CpuSet) -> Option<(String, CpuSet)> {
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    // A name can contain spaces and parentheses.
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let flags: u32 = rest.split_whitespace().nth(FLAGS)?.parse().ok()?;
    if flags & KERNEL_THREAD == 0 {
        return None;
    }
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let cpus = allowed.trim().parse::<CpuSet>().ok()?.intersection(isolated);
    let name = name.split('/').next().unwrap_or(name).to_owned();
    (!cpus.is_empty()).then_some((name, cpus))
}

/// Returns the interrupts that these CPUs handle, in the order of their numbers.
#[must_use]
pub fn interrupts(proc: &Path, isolated: &CpuSet) -> Vec<Interrupt> {
    let interrupt = |(irq, directory): (u32, std::path::PathBuf)| {
        let list = fs::read_to_string(directory.join("effective_affinity_list")).ok()?;
        let cpus = list.trim().parse::<CpuSet>().ok()?.intersection(isolated);
        // Each handler has a directory. An interrupt without handlers does not occur.
        let handlers = fs::read_dir(&directory).ok()?.flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> =
            handlers.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        (!cpus.is_empty() && !names.is_empty()).then(|| Interrupt { irq, name: names.join(", "), cpus })
    };
    numbered(&proc.join("irq")).into_iter().filter_map(interrupt).collect()
}

/// The entries of a directory that have numbers as names.
fn numbered(directory: &Path) -> BTreeMap<u32, std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn finds_kernel_threads_on_isolated_cpus() {
        let directory = tempfile::tempdir().unwrap();
        let proc = directory.path();
        for (pid, name, flags, cpus) in [
            (2, "kthreadd", 2_129_984, "0-7"),
            (30, "ksoftirqd/2", 69_238_848, "2"),
            (36, "ksoftirqd/3", 69_238_848, "3"),
            (41, "migration/0", 69_238_848, "0"),
            (900, "a) b (2", 4_194_304, "0-7"),
        ] {
            write(proc, &format!("{pid}/stat"), &format!("{pid} ({name}) S 2 0 0 0 -1 {flags} 0 0 0\n"));
            write(proc, &format!("{pid}/status"), &format!("Name:\t{name}\nCpus_allowed_list:\t{cpus}\n"));
        }
        write(proc, "irq/9/x", "");
        let found = kernel_threads(proc, &"2-3".parse().unwrap());
        let found: Vec<_> =
            found.iter().map(|it| (it.name.as_str(), it.count, it.cpus.to_string())).collect();
        assert_eq!(found, [("ksoftirqd", 2, "2-3".to_owned()), ("kthreadd", 1, "2-3".to_owned())]);
        assert_eq!(kernel_threads(proc, &CpuSet::default()), []);
    }

    #[test]
    fn finds_interrupts_on_isolated_cpus() {
        let directory = tempfile::tempdir().unwrap();
        let proc = directory.path();
        for (irq, cpus, handler) in [(24, "3", "nvme0q1"), (25, "0", "eth0"), (26, "2", "")] {
            write(proc, &format!("irq/{irq}/effective_affinity_list"), &format!("{cpus}\n"));
            if !handler.is_empty() {
                fs::create_dir(proc.join(format!("irq/{irq}/{handler}"))).unwrap();
            }
        }
        write(proc, "irq/default_smp_affinity", "ff");
        let expected = Interrupt { irq: 24, name: "nvme0q1".to_owned(), cpus: "3".parse().unwrap() };
        assert_eq!(interrupts(proc, &"2-3".parse().unwrap()), [expected]);
    }

    #[test]
    fn reads_the_kernel_threads_of_this_machine() {
        let all = (0..64).collect();
        let found = kernel_threads(Path::new("/proc"), &all);
        // In a container, kernel threads are not visible.
        let in_container = !fs::read_to_string("/proc/2/stat").is_ok_and(|stat| stat.contains("(kthreadd)"));
        assert!(in_container || found.iter().any(|it| it.name == "kthreadd"), "{found:?}");
    }
}
