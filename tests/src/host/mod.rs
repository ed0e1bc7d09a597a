//! A host of its own: network, processes, `/run`, `/etc` and `/var`, on the kernel and the programs
//! of the machine that runs the test.

pub mod guard;
pub mod journal;
pub mod mounts;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use crate::host::guard::PATH;
use crate::process::lines::Lines;
use crate::process::proc;
use crate::wait;

/// The project's folder.
#[must_use]
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}

/// Where a host finds the programs that were built.
pub const PROGRAMS: &str = "/run/wakevirt-programs";

/// What PID 1 of a host does: set up, then live until the test is over, and reap.
///
/// `$1` is the folder of the programs, `$2` the project's. `/etc` and `/var` are overlays: what is
/// written there goes to `/run`, which is a tmpfs of this host alone. bash reaps every child that is
/// left to it, which libvirt relies on when it ends a QEMU.
const INIT: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t sysfs -o ro sysfs /sys
for folder in etc var; do
    mkdir -p /run/host/$folder/upper /run/host/$folder/work
    mount -t overlay -o lowerdir=/$folder,upperdir=/run/host/$folder/upper,workdir=/run/host/$folder/work overlay /$folder
done
mkdir -p /run/wakevirt-programs /run/lock
mount --bind "$1" /run/wakevirt-programs
rm -rf /etc/wakevirt
systemd-sysusers "$2/systemd/wakevirt.sysusers.conf" "$2/tests/users.conf" >&2
ip link set lo up
echo up
while read -r _; do :; done
"#;

/// Who runs a program on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// uid 0.
    Root,
    /// The user of the capture service.
    Capture,
    /// The user of the actor service, without the group libvirt, which its unit gives to the service alone.
    Actor,
    /// Somebody in no group that matters.
    Unprivileged,
    /// Somebody in group libvirt.
    LibvirtMember,
    /// Somebody in group wakevirt.
    WakevirtMember,
}

impl User {
    /// The name of the user, and of its own group.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Capture => "wakevirt-capture",
            Self::Actor => "wakevirt-actor",
            Self::Unprivileged => "wakevirt-test-unprivileged",
            Self::LibvirtMember => "wakevirt-test-libvirt",
            Self::WakevirtMember => "wakevirt-test-wakevirt",
        }
    }
}

/// A host of its own. See the [crate's documentation](crate).
#[derive(Debug)]
pub struct Host {
    /// `unshare`, the parent of the host's PID 1. When its standard input closes, the host is over,
    /// whether the test ends, panics or is killed.
    holder: Child,
    /// The host's PID 1, as this process sees it.
    init: Pid,
}

impl Host {
    /// Boots a host: it has the loopback interface and the users, and nothing runs there.
    ///
    /// # Panics
    /// If that fails; [`privileged!`](crate::privileged) says before whether it can.
    #[must_use]
    pub fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "bash", "-c", INIT, "init"])
            .args([built_programs().as_path(), project()])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let stderr = Lines::of(holder.stderr.take().expect("it is piped"));
        let stdout = holder.stdout.take().expect("it is piped");
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).expect("the host's PID 1 answers");
        assert_eq!(said, "up\n", "the host did not boot:\n{}", stderr.all().join("\n"));
        let init = wait::until("the host's PID 1", || proc::children(proc::pid_of(&holder)).first().copied());
        Self { holder, init }
    }

    /// The host's PID 1, as this process sees it.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init
    }

    /// A path on the host, as this process reaches it.
    #[must_use]
    pub fn path(&self, on_host: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{on_host}", self.init))
    }

    /// Writes a file on the host (owner root, mode 0644), and the folders that it needs.
    pub fn write(&self, on_host: &str, text: &str) {
        let path = self.path(on_host);
        let folder = path.parent().expect("a file is in a folder");
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text)).unwrap_or_else(|error| {
            panic!("cannot write {on_host} on the host: {error}");
        });
    }

    /// Reads a file on the host.
    #[must_use]
    pub fn read(&self, on_host: &str) -> String {
        std::fs::read_to_string(self.path(on_host)).unwrap_or_else(|error| {
            panic!("cannot read {on_host} on the host: {error}");
        })
    }

    /// A program that is to run on the host as root, with an empty environment but for `PATH`.
    ///
    /// The child that is spawned is `nsenter`, which ends as the program does; [`proc::children`]
    /// knows the program itself.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--mount", "--net", "--ipc", "--pid"])
            // The root of the host is not that of its mount namespace where the test runs in a chroot.
            .args(["--root", "--wd", "--", program])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// A program that is to run on the host as this user, with the user's groups.
    #[must_use]
    pub fn command_as(&self, user: User, program: &str) -> Command {
        if user == User::Root {
            return self.command(program);
        }
        let mut command = self.command("setpriv");
        command.args(["--reuid", user.name(), "--regid", user.name(), "--init-groups", "--", program]);
        command
    }

    /// Runs a line of shell on the host as root, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails, with what it wrote to standard error.
    pub fn sh(&self, line: &str) -> String {
        succeed(self.command("sh").args(["-euc", line]))
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The kernel kills all of a PID namespace with its PID 1, and `--kill-child` that one.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a command, and returns what it wrote to standard output.
///
/// # Panics
/// If it fails, with what it wrote to standard error.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}):\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The folder with the programs of this build: the first one above this program that has them.
///
/// # Panics
/// If they are not built.
#[must_use]
pub fn built_programs() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own file");
    own.ancestors()
        .find(|folder| folder.join("wakevirt-test-wire").exists())
        .expect("the programs are built: run `cargo build --workspace` before")
        .to_owned()
}
