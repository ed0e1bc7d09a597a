//! The kernel log's records of processes that seccomp(2) killed.

use std::process::Command;

use crate::wait;

/// Installs a filter with `SECCOMP_RET_KILL_PROCESS` for getpid(2), number 39 on x86-64, and calls it. The
/// instructions of the filter are those of linux/filter.h.
const FORBIDDEN_CALL: &str = r#"
import ctypes, struct
libc = ctypes.CDLL(None)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 39), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc.prctl(38, 1, 0, 0, 0)
libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(code))))
libc.syscall(39)
"#;

/// The IDs of the sniffers that seccomp killed, according to the kernel log (audit records of type 1326). `None` if
/// this machine does not write such records, or its log cannot be read. Records of other programs do not count, because
/// the kernel reuses IDs.
///
/// The kernel writes these records in order, but with a delay. Therefore, this function causes another record, and
/// waits until the log contains it.
///
/// # Panics
/// If the process for that record cannot be started, or is not killed.
#[must_use]
pub fn sniffers_killed_by_seccomp() -> Option<Vec<u32>> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let _readable = records()?;
    // The kernel limits the rate of these records, so one attempt is not enough.
    wait::within(wait::TIMEOUT, || {
        let mut probe = Command::new("python3").args(["-c", FORBIDDEN_CALL]).spawn().expect("python3 runs");
        let pid = probe.id();
        let status = probe.wait().expect("it is a child process");
        assert!(!status.success(), "the filter did not work: {status}");
        wait::within(wait::TIMEOUT / 10, || records().filter(|all| all.iter().any(|it| it.pid == pid)))
    })
    .map(|all| all.into_iter().filter(|it| it.is_sniffer).map(|it| it.pid).collect())
}

struct Record {
    pid: u32,
    is_sniffer: bool,
}

fn records() -> Option<Vec<Record>> {
    let output = Command::new("dmesg").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let record = |line: &str| {
        let pid = line.split(" pid=").nth(1)?.split(' ').next()?.parse().ok()?;
        // The kernel limits the name to 15 bytes: PR_SET_NAME in prctl(2).
        Some(Record { pid, is_sniffer: line.contains(" comm=\"wakevirt-sniffe\"") })
    };
    Some(text.lines().filter(|line| line.contains("type=1326")).filter_map(record).collect())
}
