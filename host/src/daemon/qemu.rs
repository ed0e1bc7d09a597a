//! The QEMU processes of domains.

use std::io::Read as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use wakevirt_service::config::{self, Links};

/// The directory in which libvirt's system daemon stores the process IDs of its domains.
const DIRECTORY: &str = "/run/libvirt/qemu";

/// The process ID of a domain's QEMU, if it is running.
pub(super) fn pid_of(name: &str) -> Option<Pid> {
    pid_in(Path::new(DIRECTORY), name)
}

fn pid_in(directory: &Path, name: &str) -> Option<Pid> {
    // libvirt rejects names that contain a slash.
    if name.contains('/') {
        return None;
    }
    let mut text = String::new();
    let file = config::open(&directory.join(format!("{name}.pid")), Links::Reject).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    // Pid::from_raw panics on a negative number.
    let pid = text.trim().parse().ok().filter(|pid: &i32| pid.is_positive()).and_then(Pid::from_raw)?;
    // The process belongs to another user, and is not visible in /proc.
    (test_kill_process(pid) != Err(Errno::SRCH)).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_id_counts_only_while_the_process_exists() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b.pid");
        assert_eq!(pid_in(directory.path(), "a b"), None);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(&path, format!("{}\n", child.id())).unwrap();
        let pid = pid_in(directory.path(), "a b").unwrap();
        assert_eq!(u32::try_from(pid.as_raw_nonzero().get()).unwrap(), child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pid_in(directory.path(), "a b"), None);
        for text in ["", "x", "0", "-1"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(pid_in(directory.path(), "a b"), None, "{text:?}");
        }
        assert_eq!(pid_in(directory.path(), "../a b"), None);
    }
}
