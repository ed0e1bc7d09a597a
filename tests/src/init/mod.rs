//! A Debian system on a host, without systemd: another init system is its first process. The system consists of the
//! files from `scripts/inits`. The `DEBIAN` environment variable selects the release.

pub mod scenario;
pub mod services;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use crate::host::{Host, as_user, on_system, project, succeed};
use crate::process::{Process, print_on_failure, proc};
use crate::wait;

/// The root directory of the system, as a path on the host. Writes go to a tmpfs.
const ROOT: &str = "/run/init/root";

/// Changes Debian's defaults before the system is booted. `$1` contains the lower directories of the overlay.
///
/// No service is enabled: some of Debian's services change the kernel's settings, and few of them have definitions for
/// every init system. QEMU runs without its protections, because there is neither AppArmor nor a cgroup controller.
const PREPARE: &str = r#"
mkdir -p /run/init/upper /run/init/work /run/init/root
mount -t overlay -o "lowerdir=$1,upperdir=/run/init/upper,workdir=/run/init/work" overlay /run/init/root
cd /run/init/root/etc
tr -d - </proc/sys/kernel/random/uuid >machine-id
echo debian >hostname
printf 'security_driver = "none"\nseccomp_sandbox = 0\ncgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = "file"\n' >>libvirt/qemu.conf
rm -rf rc?.d/S* rc?.d/K* runlevels/*/* runit/runsvdir/default/*
mkdir -p runit/boot-run runit/shutdown-run
touch runit/native.boot.run runit/no.emulate.sysv
"#;

/// Boots the system. `$1` is its root directory, the other arguments are the command of the init system.
///
/// The root directory is writable again after a shutdown that has remounted it.
const BOOT: &str = r#"
cd "$1"
shift
mount -o remount,rw .
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir run/lock dev/net dev/pts dev/shm
for device in full net/tun null random tty urandom zero; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
chmod 1777 dev/shm
exec env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb chroot . "$@"
"#;

/// Creates wakevirt's users and groups without systemd-sysusers(8), if they do not exist.
const CREATE_USERS: &str = r#"
for group in libvirt wakevirt; do
    getent group $group >/dev/null || groupadd --system $group
done
for user in wakevirt-capture wakevirt-actor wakevirt-metrics wakevirt-host; do
    getent passwd $user >/dev/null ||
        useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin $user
done
"#;

/// An init system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// OpenRC, with its own first process: openrc-init(8).
    OpenRc,
    /// runit: runit(8).
    Runit,
    /// s6, only its supervision: s6-svscan. Debian contains neither s6-rc nor s6-linux-init.
    S6,
    /// The GNU Shepherd. Only Debian 13 contains it.
    Shepherd,
}

impl Init {
    /// The value of INIT for `make install`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenRc => "openrc",
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Shepherd => "shepherd",
        }
    }

    /// The command that runs as the first process.
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::OpenRc => &["/sbin/openrc-init"],
            Self::Runit => &["/sbin/runit"],
            Self::S6 => &["/usr/bin/s6-svscan", "/etc/s6/service"],
            Self::Shepherd => &["/usr/bin/shepherd", "--config=/etc/shepherd.scm"],
        }
    }

    /// The shell command that shuts the system down. `reboot` selects a reboot instead of a halt.
    fn shutdown(self, reboot: bool) -> &'static str {
        match (self, reboot) {
            (Self::OpenRc, false) => "openrc-shutdown --poweroff now",
            (Self::OpenRc, true) => "openrc-shutdown --reboot now",
            (Self::Runit, false) => "chmod 100 /run/runit.stopit; kill -CONT 1",
            (Self::Runit, true) => "chmod 100 /run/runit.stopit /run/runit.reboot; kill -CONT 1",
            (Self::S6, _) => "s6-svscanctl -t /etc/s6/service",
            (Self::Shepherd, _) => "herd stop root",
        }
    }
}

/// A Debian system on a [`Host`] with another init system, which shares the host's network. It has a bus, polkit, elogind,
/// libvirt, QEMU, rsyslog and an SSH server, but no service is enabled. Tests install wakevirt.
#[derive(Debug)]
pub struct System<'host> {
    host: &'host Host,
    init: Init,
    /// unshare(1), which exits when the first process does.
    holder: Option<Process>,
    /// The first process, in the PID namespace of this process.
    pid: Option<Pid>,
}

impl<'host> System<'host> {
    /// Prepares a system without booting it. A host can have one system.
    ///
    /// # Panics
    /// If a step fails.
    #[must_use]
    pub fn new(host: &'host Host, init: Init) -> Self {
        let lower = succeed(&mut Command::new(project().join("scripts/inits")));
        succeed(host.command("sh").args(["-euc", PREPARE, "prepare", lower.trim()]));
        Self { host, init, holder: None, pid: None }
    }

    /// The host on which the system runs.
    #[must_use]
    pub fn host(&self) -> &'host Host {
        self.host
    }

    /// The init system.
    #[must_use]
    pub fn init(&self) -> Init {
        self.init
    }

    /// Installs the programs of this build before the system is booted, like `make install PREFIX=/usr` with the
    /// init system, and creates the users.
    ///
    /// # Panics
    /// If a step fails.
    pub fn install(&self) {
        self.host.install(ROOT, self.init.name());
        succeed(self.chroot("sh").args(["-euc", CREATE_USERS]));
    }

    /// Makes a directory of the host visible on the system, which is not booted.
    ///
    /// # Panics
    /// If it cannot be mounted.
    pub fn bind(&self, directory: &str, inside: &str) {
        self.host.sh(&format!("mkdir -p {ROOT}{inside} && mount --bind '{directory}' {ROOT}{inside}"));
    }

    /// A command that runs a program in the root directory of the system, which is not booted. Only `/proc` is mounted
    /// there.
    #[must_use]
    pub fn chroot(&self, program: &str) -> Command {
        self.host.chroot(ROOT, program)
    }

    /// The path of one of the system's files, for this process. If the system is not booted, its `/run` is empty.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        match self.pid {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/root{inside}")),
            None => self.host.path(&format!("{ROOT}{inside}")),
        }
    }

    /// Writes a file (owner root, mode 0644), and creates its parent directories.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        let directory = path.parent().expect("a file has a parent directory");
        let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, text));
        written.unwrap_or_else(|error| panic!("cannot write {inside} on the system: {error}"));
    }

    /// Writes an executable file (owner root, mode 0755), and creates its parent directories.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_executable(&self, inside: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        self.write(inside, text);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path(inside), executable).expect("the file exists");
    }

    /// Copies a file of the project to the system, with its permissions.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn copy(&self, from: &str, inside: &str) {
        let target = self.path(inside);
        let directory = target.parent().expect("a file has a parent directory");
        let copied =
            std::fs::create_dir_all(directory).and_then(|()| std::fs::copy(project().join(from), &target));
        copied.unwrap_or_else(|error| panic!("cannot copy {from} to the system: {error}"));
    }

    /// Reads a file of the system. Empty if it does not exist.
    #[must_use]
    pub fn read(&self, inside: &str) -> String {
        std::fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    /// Boots the system, and returns when its init system is the first process. Services might not have started yet.
    ///
    /// # Panics
    /// If it does not start.
    pub fn boot(&mut self) {
        self.pid = None;
        let mut command = self.host.command("unshare");
        command.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child"]);
        command
            .args(["--propagation", "private", "sh", "-euc", BOOT, "boot", ROOT])
            .args(self.init.command());
        let holder = Process::start("the init system", &mut command);
        let program = self.init.command().first().and_then(|path| path.rsplit('/').next());
        let up = wait::within(wait::TIMEOUT, || {
            let pid = proc::children(holder.pid()).first().copied()?;
            // The name of the program, or of the script in the case of Shepherd.
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (program == Some(name.trim())).then_some(pid)
        });
        assert!(up.is_some(), "the system did not start:\n{}", holder.log().all().join("\n"));
        self.pid = up;
        self.holder = Some(holder);
    }

    /// Shuts the system down with its init system, and returns when all its processes have exited.
    ///
    /// # Panics
    /// If it does not shut down.
    pub fn shut_down(&mut self) {
        self.end(false);
    }

    /// Reboots the system with its init system: shuts it down, and boots it again.
    ///
    /// # Panics
    /// If it does not shut down or start.
    pub fn reboot(&mut self) {
        self.end(true);
        self.boot();
    }

    fn end(&mut self, reboot: bool) {
        // The command itself can be killed with the system.
        let _ = self.command("sh").args(["-c", self.init.shutdown(reboot)]).output();
        let mut holder = self.holder.take().expect("the system is booted");
        let ended = wait::within(3 * wait::TIMEOUT, || holder.exit_status());
        assert!(ended.is_some(), "the system does not shut down:\n{}", holder.log().all().join("\n"));
        self.pid = None;
    }

    /// The output of the init system since the last boot.
    ///
    /// # Panics
    /// If the system is not booted.
    #[must_use]
    pub fn console(&self) -> String {
        self.holder.as_ref().expect("the system is booted").log().all().join("\n")
    }

    /// The system's first process, in the PID namespace of this process.
    ///
    /// # Panics
    /// If it is not booted.
    #[must_use]
    pub fn first_process(&self) -> Pid {
        self.pid.expect("the system is booted")
    }

    /// A command that runs a program on the system as root.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        on_system(Command::new("nsenter"), self.first_process(), program)
    }

    /// A command that runs a program on the system as this user, with the user's groups.
    #[must_use]
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        as_user(self.command("setpriv"), user, program)
    }

    /// Runs a shell command on the system as root, and returns its output.
    ///
    /// # Panics
    /// If it fails, with its output in the message.
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("bash").args(["-euc", line]).output().expect("nsenter runs");
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "`{line}` failed ({}):\n{stdout}\n{stderr}", output.status);
        stdout.into_owned()
    }

    /// Whether a shell command succeeds on the system, as root.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn succeeds(&self, line: &str) -> bool {
        let mut command = self.command("bash");
        command.args(["-euc", line]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("nsenter runs").success()
    }

    /// Waits until a shell command succeeds on the system, as root.
    ///
    /// # Panics
    /// If it does not succeed within the timeout.
    pub fn wait_until(&self, what: &str, line: &str) {
        wait::until_true(what, || self.succeeds(line));
    }

    /// The processes of the system that run this program, in the PID namespace of this process. Only the file name of
    /// the program counts, as in [`proc::program`].
    #[must_use]
    pub fn processes(&self, program: &str) -> Vec<Pid> {
        let mut all = self.all_processes();
        all.retain(|pid| proc::program(*pid).as_deref() == Some(program));
        all
    }

    /// The first process and all its descendants, in the PID namespace of this process.
    #[must_use]
    pub fn all_processes(&self) -> Vec<Pid> {
        proc::tree(self.first_process())
    }

    /// Waits until the system has exactly one process that runs this program, and returns it.
    ///
    /// # Panics
    /// If it has none or several within the timeout.
    #[must_use]
    pub fn process(&self, program: &str) -> Pid {
        wait::until(&format!("one process {program}"), || {
            let found = self.processes(program);
            found.first().copied().filter(|_| found.len() == 1)
        })
    }
}

impl Drop for System<'_> {
    fn drop(&mut self) {
        if self.pid.is_some() {
            print_on_failure("the files in /var/log", || {
                let line = "cd /var/log; tail -n 100 syslog daemon.log rc.log wakevirt*/current wakevirt*.log 2>/dev/null";
                let tail = self.command("timeout").args(["10", "sh", "-c", line]).output();
                String::from_utf8_lossy(&tail.map(|output| output.stdout).unwrap_or_default()).into_owned()
            });
        }
        // unshare(1) kills the first process, and the kernel all others. The overlay disappears with the host.
        drop(self.holder.take());
    }
}
