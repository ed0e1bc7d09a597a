//! An isolated host: its own network, processes, `/run`, `/etc` and `/var`, with this machine's kernel and programs.

pub mod guard;
pub mod journal;
pub mod mounts;
pub mod sysfs;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use crate::host::guard::PATH;
use crate::process::lines::Lines;
use crate::process::proc;
use crate::wait;

/// The directory of the workspace.
#[must_use]
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a directory of the workspace")
}

/// The directory of the built programs on a host.
pub const PROGRAMS: &str = "/run/wakevirt-programs";

/// The script of a host's PID 1: sets up the host, then reaps processes until the test ends.
///
/// `$1` is the directory of the programs, `$2` that of the workspace. `/etc` and `/var` are overlays whose upper
/// directories are in `/run`, a tmpfs of this host. bash reaps orphaned processes. libvirt relies on that when it stops
/// QEMU.
const INIT: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t sysfs -o ro sysfs /sys
for directory in etc var; do
    mkdir -p /run/host/$directory/upper /run/host/$directory/work
    mount -t overlay -o lowerdir=/$directory,upperdir=/run/host/$directory/upper,workdir=/run/host/$directory/work overlay /$directory
done
mkdir -p /run/wakevirt-programs /run/lock
mount --bind "$1" /run/wakevirt-programs
rm -rf /etc/wakevirt
systemd-sysusers "$2/systemd/wakevirt.sysusers.conf" "$2/tests/users.conf" >&2
ip link set lo up
echo up
while read -r _; do :; done
"#;

/// A user on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// UID 0.
    Root,
    /// The user of the capture service.
    Capture,
    /// The user of the actor service, without the `libvirt` group: that group comes from the unit.
    Actor,
    /// A user without privileges.
    Unprivileged,
    /// A member of the `libvirt` group.
    LibvirtMember,
    /// A member of the `wakevirt` group.
    WakevirtMember,
}

impl User {
    /// The name of the user and of the user's own group.
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

/// An isolated host. See the [documentation of the crate](crate).
#[derive(Debug)]
pub struct Host {
    /// `unshare`, the parent of the host's PID 1. The host ends when the standard input of `unshare` is closed, because
    /// the test ends, panics or is killed.
    holder: Child,
    /// The host's PID 1 in the PID namespace of this process.
    init: Pid,
}

impl Host {
    /// Creates a host with the loopback interface and the users. No services are running on it.
    ///
    /// # Panics
    /// If the host cannot be created. [`privileged!`](crate::privileged) checks the requirements.
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
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the host's PID 1 writes a line");
        assert_eq!(line, "up\n", "the host did not start:\n{}", stderr.all().join("\n"));
        let init = wait::until("the host's PID 1", || proc::children(proc::pid_of(&holder)).first().copied());
        Self { holder, init }
    }

    /// The host's PID 1 in the PID namespace of this process.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init
    }

    /// The path of a file on the host, for this process.
    #[must_use]
    pub fn path(&self, on_host: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{on_host}", self.init))
    }

    /// Writes a file on the host (owner root, mode 0644), and creates its parent directories.
    pub fn write(&self, on_host: &str, text: &str) {
        let path = self.path(on_host);
        let directory = path.parent().expect("a file has a parent directory");
        std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, text)).unwrap_or_else(
            |error| {
                panic!("cannot write {on_host} on the host: {error}");
            },
        );
    }

    /// Reads a file on the host.
    #[must_use]
    pub fn read(&self, on_host: &str) -> String {
        std::fs::read_to_string(self.path(on_host)).unwrap_or_else(|error| {
            panic!("cannot read {on_host} on the host: {error}");
        })
    }

    /// A command that runs a program on the host as root. Its environment contains only `PATH` and `LC_ALL`.
    ///
    /// The spawned child is `nsenter`, which exits with the status of the program. [`proc::children`] finds the
    /// program.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--mount", "--net", "--ipc", "--pid"])
            // If the test runs in a chroot, the host's root directory differs from that of its mount namespace.
            .args(["--root", "--wd", "--", program])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// A command that runs a program on the host as this user, with the user's groups.
    #[must_use]
    pub fn command_as(&self, user: User, program: &str) -> Command {
        if user == User::Root {
            return self.command(program);
        }
        as_user(self.command("setpriv"), user.name(), program)
    }

    /// Installs the programs of this build into a root directory on the host, like `make install PREFIX=/usr INIT=…`. It
    /// creates no users.
    ///
    /// # Panics
    /// If a step fails.
    pub fn install(&self, root: &str, init: &str) {
        let mut install = self.command(&project().join("scripts/install").to_string_lossy());
        install.arg("install").env("DESTDIR", root).env("PREFIX", "/usr").env("INIT", init);
        // The script finds the programs in CARGO_TARGET_DIR/PROFILE.
        let (target, profile) = PROGRAMS.rsplit_once('/').expect("a path");
        succeed(install.env("CARGO_TARGET_DIR", target).env("PROFILE", profile));
    }

    /// A command that runs a program in a root directory on the host. Only `/proc` is mounted there.
    #[must_use]
    pub fn chroot(&self, root: &str, program: &str) -> Command {
        let mut command = self.command("unshare");
        command.args([&format!("--mount-proc={root}/proc"), "chroot", root, program]);
        command
    }

    /// Runs a shell command on the host as root, and returns its output.
    ///
    /// # Panics
    /// If it fails, with its standard error in the message.
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
        // `--kill-child` kills PID 1. The kernel then kills all other processes in the PID namespace.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Completes a command for setpriv(1), so that it runs a program as this user, with the user's groups.
#[must_use]
pub fn as_user(mut setpriv: Command, user: &str, program: &str) -> Command {
    setpriv.args(["--reuid", user, "--regid", user, "--init-groups", "--", program]);
    setpriv
}

/// Completes a command for nsenter(1), so that it runs a program as root on the system with this first process.
#[must_use]
pub fn on_system(mut nsenter: Command, first_process: Pid, program: &str) -> Command {
    nsenter
        .args(["--target", &first_process.to_string()])
        .args(["--mount", "--uts", "--net", "--ipc", "--pid", "--cgroup", "--root", "--wd", "--", program])
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root")
        .stdin(Stdio::null());
    nsenter
}

/// Runs a command, and returns its standard output.
///
/// # Panics
/// If it fails, with its standard error in the message.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}):\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The directory with the programs of this build: the nearest of this program's parent directories that contains them.
///
/// # Panics
/// If they have not been built.
#[must_use]
pub fn built_programs() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    own.ancestors()
        .find(|directory| directory.join("wakevirt-test-wire").exists())
        .expect("the programs must be built first: run `cargo build --workspace`")
        .to_owned()
}
