//! Whether this machine lets the bench build its hosts.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where programs are looked for: a fixed list, so that the user's own tools do not take part.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the demonstration calls.
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

/// What the tests call besides.
pub const FOR_TESTS: &[&str] = &[
    "busctl",
    "dbus-broker-launch",
    "debootstrap",
    "dnsmasq",
    "dropbear",
    "ebtables",
    "iptables",
    "pkaction",
    "python3",
    "qemu-img",
    "qemu-system-x86_64",
    "ssh",
    "swtpm_setup",
    "systemd-nspawn",
    "systemd-socket-activate",
    "tcpdump",
];

/// Ends the test, saying that it was skipped, where it may not build a [`Host`](crate::host::Host).
///
/// With `CI=true` or `WAKEVIRT_NO_SKIP=1` in the environment it fails instead: nothing is skipped in
/// silence where nobody looks.
#[macro_export]
macro_rules! privileged {
    () => {
        if !$crate::host::guard::privileged() {
            return;
        }
    };
}

/// Whether the test may go on; if not, says why. See [`privileged!`](crate::privileged).
///
/// # Panics
/// Where skipping is not allowed.
#[must_use]
pub fn privileged() -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let find = || why_not(&[FOR_DEMO, FOR_TESTS].concat());
    REASON.get_or_init(find).as_deref().is_none_or(skip)
}

/// Whether the test may go on with this program alone, and without any right; if not, says why.
///
/// # Panics
/// Where skipping is not allowed.
#[must_use]
pub fn has(program: &str) -> bool {
    is_installed(program) || skip(&format!("not installed: {program}; see scripts/prepare"))
}

/// Says why the test is skipped: `false`.
fn skip(reason: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(!skipping_forbidden(), "{test} cannot be skipped here: {reason}");
    // Not by `eprintln`, which a test that passes keeps to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
    false
}

fn skipping_forbidden() -> bool {
    let set = |name, value| std::env::var_os(name).is_some_and(|found| found == value);
    set("CI", "true") || set("WAKEVIRT_NO_SKIP", "1")
}

/// Why no host can be built here, on which these programs run.
#[must_use]
pub fn why_not(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it makes network namespaces, which only root may".to_owned());
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
        _ => Some("this machine does not let root make namespaces (a container?)".to_owned()),
    }
}

fn is_installed(program: &str) -> bool {
    PATH.split(':').any(|folder| Path::new(folder).join(program).exists())
}
