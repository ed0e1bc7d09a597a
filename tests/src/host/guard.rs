//! Skips tests that cannot run on this machine.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The directories of the programs: a fixed list, so that the tests do not use the user's own tools.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs that the demonstration needs.
pub const FOR_DEMO: &[&str] = &[
    "bash",
    "dbus-daemon",
    "etherwake",
    "gdbus",
    "ip",
    "libvirtd",
    "nsenter",
    "setpriv",
    "systemd-sysusers",
    "unshare",
    "virsh",
    "wakeonlan",
];

/// The additional programs that the tests need.
pub const FOR_TESTS: &[&str] = &[
    "busctl",
    "busybox",
    "chromium",
    "crun",
    "dbus-broker-launch",
    "debootstrap",
    "dnsmasq",
    "dropbear",
    "ebtables",
    "fish",
    "iptables",
    "node",
    "npm",
    "pkaction",
    "podman",
    "python3",
    "qemu-img",
    "qemu-system-x86_64",
    "ssh",
    "strip",
    "swtpm_setup",
    "systemd-nspawn",
    "systemd-socket-activate",
    "tcpdump",
    "zsh",
];

/// Skips the test and prints the reason if this machine cannot run a [`Host`](crate::host::Host).
///
/// With `CI=true` or `WAKEVIRT_NO_SKIP=1` in the environment, the test fails instead, so that no skipped test goes
/// unnoticed.
#[macro_export]
macro_rules! privileged {
    () => {
        if !$crate::host::guard::privileged() {
            return;
        }
    };
}

/// Whether this machine can run a host; if not, prints the reason. See [`privileged!`](crate::privileged).
///
/// # Panics
/// If the test must not be skipped.
#[must_use]
pub fn privileged() -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let find = || missing_requirement(&[FOR_DEMO, FOR_TESTS].concat());
    REASON.get_or_init(find).as_deref().is_none_or(skip)
}

/// Whether the test runs as root; if not, prints that it is skipped.
///
/// # Panics
/// If the test must not be skipped.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root() || skip("it needs root")
}

/// Whether a program is installed, for a test that needs no privileges; if not, prints the reason.
///
/// # Panics
/// If the test must not be skipped.
#[must_use]
pub fn has(program: &str) -> bool {
    is_installed(program) || skip(&format!("not installed: {program}; see scripts/prepare"))
}

/// Prints why the test is skipped, and returns `false`.
fn skip(reason: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(!skipping_forbidden(), "{test} must not be skipped here: {reason}");
    // Do not use `eprintln`, whose output the test harness hides if the test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
    false
}

fn skipping_forbidden() -> bool {
    let set = |name, value| std::env::var_os(name).is_some_and(|found| found == value);
    set("CI", "true") || set("WAKEVIRT_NO_SKIP", "1")
}

/// The reason why this machine cannot run a host with these programs; `None` if it can.
#[must_use]
pub fn missing_requirement(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root to create network namespaces".to_owned());
    }
    let missing: Vec<_> = programs.iter().copied().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        return Some(format!("not installed: {}; see scripts/prepare", missing.join(", ")));
    }
    let unshared = Command::new("unshare")
        .args(["--mount", "--net", "--ipc", "--pid", "--fork", "true"])
        .env("PATH", PATH)
        .stderr(Stdio::null())
        .status();
    match unshared {
        Ok(status) if status.success() => None,
        _ => Some("root cannot create namespaces on this machine (a container?)".to_owned()),
    }
}

fn is_installed(program: &str) -> bool {
    PATH.split(':').any(|directory| Path::new(directory).join(program).exists())
}
