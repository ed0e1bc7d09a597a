//! A Debian of its own on a host, with systemd as its first process: systemd-nspawn(1) boots what
//! `scripts/tree` has made. `DEBIAN` in the environment chooses the release.

pub mod inventory;
pub mod package;

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;

use crate::bus::Kind;
use crate::host::guard::PATH;
use crate::host::{Host, PROGRAMS, project, succeed};
use crate::process::proc;
use crate::process::{Process, show_if_it_fails};
use crate::wait;

/// Where its root is on the host. What it writes goes into the host's memory.
pub const ROOT: &str = "/run/debian/root";

/// The exit status of systemd-nspawn(1) under `--keep-unit` when what it boots reboots.
const REBOOTED: i32 = 133;

/// What it boots with besides Debian's defaults.
///
/// `$1` is the folder from `scripts/tree`, `$2` the unit that is the bus. QEMU protects nothing here,
/// and there is neither AppArmor nor a cgroup controller. What is masked wants hardware.
const FURNISH: &str = r#"
mkdir -p /run/debian/upper /run/debian/work /run/debian/root
mount -t overlay -o "lowerdir=$1,upperdir=/run/debian/upper,workdir=/run/debian/work" overlay /run/debian/root
cd /run/debian/root/etc
tr -d - </proc/sys/kernel/random/uuid >machine-id
echo debian >hostname
printf 'security_driver = "none"\nseccomp_sandbox = 0\n' >>libvirt/qemu.conf
ln -sfn "/lib/systemd/system/$2" systemd/system/dbus.service
for unit in apt-daily.timer apt-daily-upgrade.timer console-getty.service dev-hugepages.mount getty.target modprobe@.service sys-fs-fuse-connections.mount \
    systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service; do
    ln -sfn /dev/null "systemd/system/$unit"
done
"#;

/// How it is booted. `$1` is its cgroup, `$2` its root.
///
/// It has the host's network, and what it needs to change that, to filter what its units receive, and to let
/// them confine themselves.
const BOOT: &str = r#"
echo $$ >"$1/cgroup.procs"
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --boot \
    --machine=debian --directory="$2" --network-namespace-path=/proc/self/ns/net --console=pipe --link-journal=no \
    --bind=/dev/net/tun --capability=CAP_NET_ADMIN,CAP_BPF --system-call-filter="bpf landlock_create_ruleset landlock_restrict_self"
"#;

/// A Debian that runs on a [`Host`], and shares its network. It has a system bus, polkit, libvirt and
/// QEMU, and nothing of wakevirt until a test installs it.
#[derive(Debug)]
pub struct Debian<'host> {
    host: &'host Host,
    cgroup: String,
    nspawn: Option<Process>,
    init: Option<Pid>,
}

/// A folder with the same Debian release as this machine, not booted, for tests that need files of packages
/// that this machine does not have.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn tree_of_same_release() -> PathBuf {
    succeed(tree().env_remove("DEBIAN")).trim().into()
}

/// The script that prints the folder of the release that is booted.
fn tree() -> Command {
    Command::new(project().join("scripts/tree"))
}

impl<'host> Debian<'host> {
    /// Makes one ready, and does not boot it yet.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(host: &'host Host, bus: Kind) -> Self {
        let tree = succeed(&mut tree());
        let bus = match bus {
            Kind::DbusDaemon => "dbus.service",
            Kind::DbusBroker => "dbus-broker.service",
        };
        succeed(host.command("sh").args(["-euc", FURNISH, "furnish"]).arg(tree.trim()).arg(bus));
        let cgroup = new_cgroup(host);
        Self { host, cgroup, nspawn: None, init: None }
    }

    /// Places what was built for this test, as `make install PREFIX=/usr` does, before it is booted.
    ///
    /// # Panics
    /// If that fails.
    pub fn install(&self) {
        let mut install = self.host.command(&project().join("scripts/install").to_string_lossy());
        install.arg("install").env("DESTDIR", ROOT).env("PREFIX", "/usr");
        // The script finds the programs in CARGO_TARGET_DIR/PROFILE.
        let (target, profile) = PROGRAMS.rsplit_once('/').expect("it is a path");
        succeed(install.env("CARGO_TARGET_DIR", target).env("PROFILE", profile));
        // The folders are made as it boots, the users only where /usr is newer than /etc.
        succeed(self.chroot("systemd-sysusers").arg("wakevirt.conf"));
    }

    /// A program of it that is to run in its root, with nothing mounted there but `/proc`, before it is
    /// booted.
    #[must_use]
    pub fn chroot(&self, program: &str) -> Command {
        let mut command = self.host.command("unshare");
        command.args([&format!("--mount-proc={ROOT}/proc"), "chroot", ROOT, program]);
        command
    }

    /// A file of it, as this process reaches it, whether it is booted or not. What is in its `/run`
    /// cannot be seen here.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.host.path(&format!("{ROOT}{inside}"))
    }

    /// Writes a file (owner root, mode 0644), and the folders that it needs.
    pub fn write(&self, inside: &str, text: &str) {
        self.host.write(&format!("{ROOT}{inside}"), text);
    }

    /// Copies a file of this machine into it.
    ///
    /// # Panics
    /// If that fails.
    pub fn copy(&self, from: &Path, inside: &str) {
        let copied = std::fs::copy(from, self.path(inside));
        copied.unwrap_or_else(|error| panic!("cannot copy {} into the Debian: {error}", from.display()));
    }

    /// Boots it, and returns when systemd says that it is up. Some of its units may have failed.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn boot(&mut self) {
        let mut command = self.host.command("sh");
        command.args(["-euc", BOOT, "boot", &self.cgroup, ROOT]);
        let nspawn = Process::start("systemd-nspawn", &mut command);
        self.init = None;
        let up = wait::within(3 * wait::TIMEOUT, || {
            self.init = proc::children(nspawn.pid()).last().copied();
            self.init?;
            let output = self.command("systemctl").arg("is-system-running").output().ok()?;
            ["running\n", "degraded\n"].map(str::as_bytes).contains(&output.stdout.as_slice()).then_some(())
        });
        assert!(up.is_some(), "the Debian did not come up:\n{}", nspawn.log().all().join("\n"));
        self.nspawn = Some(nspawn);
    }

    /// Reboots it, as an administrator does, and returns when it is up again.
    ///
    /// # Panics
    /// If it does not go down or does not come up.
    pub fn reboot(&mut self) {
        self.sh("systemctl reboot");
        let mut nspawn = self.nspawn.take().expect("it is booted");
        let ended = wait::within(3 * wait::TIMEOUT, || nspawn.exit_status());
        assert_eq!(
            ended.and_then(|status| status.code()),
            Some(REBOOTED),
            "{}",
            nspawn.log().all().join("\n")
        );
        self.boot();
    }

    /// Its first process, as this process sees it.
    ///
    /// # Panics
    /// If it is not booted.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init.expect("it is booted")
    }

    /// A program that is to run in it as root, outside its units and with more rights than they have.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        // systemd 257 answers EUNATCH to a process outside its own part of the cgroup tree.
        let procs = self.host.path(&format!("{}/payload/cgroup.procs", self.cgroup));
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo 0 >"$0" && exec nsenter "$@""#])
            .arg(procs)
            .args(["--target", &self.init().to_string()])
            .args([
                "--mount", "--uts", "--net", "--ipc", "--pid", "--cgroup", "--root", "--wd", "--", program,
            ])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/root")
            .stdin(std::process::Stdio::null());
        command
    }

    /// A program that is to run in it as this user, with the user's groups.
    #[must_use]
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", user, "--regid", user, "--init-groups", "--", program]);
        command
    }

    /// Runs a line of shell as this user, whose service manager runs, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn in_session(&self, user: &str, line: &str) -> String {
        let set = "export XDG_RUNTIME_DIR=/run/user/$(id -u) DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$(id -u)/bus";
        let mut command = self.command_as(user, "env");
        command.args([&format!("HOME=/home/{user}"), "bash", "-euc", &format!("{set}; {line}")]);
        succeed(&mut command)
    }

    /// What this unit of users' service managers has logged since the last boot.
    #[must_use]
    pub fn user_journal(&self, unit: &str) -> String {
        self.sh(&format!("journalctl --boot --no-pager --output=cat _SYSTEMD_USER_UNIT={unit}.service"))
    }

    /// Runs a line of shell in it as root, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails, with what it wrote to standard error, and the end of the journal.
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("bash").args(["-euc", line]).output().expect("nsenter runs");
        if !output.status.success() {
            let journal =
                self.command("journalctl").args(["--no-pager", "--lines=60"]).output().expect("nsenter runs");
            let [said, journal] = [&output.stderr, &journal.stdout].map(|text| String::from_utf8_lossy(text));
            panic!("`{line}` failed ({}):\n{said}\nthe journal:\n{journal}", output.status);
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What this unit has logged since the last boot.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.sh(&format!("journalctl --boot --no-pager --output=cat --unit={unit}"))
    }

    /// The main process of a unit, as this process sees it.
    ///
    /// # Panics
    /// If the unit has none.
    #[must_use]
    pub fn main_process(&self, unit: &str) -> Pid {
        let inside = self.sh(&format!("systemctl show --property=MainPID --value {unit}"));
        let inside = inside.trim();
        assert_ne!(inside, "0", "{unit} does not run:\n{}", self.journal(unit));
        // Every process of it is a descendant of its first one.
        let mut all = vec![self.init()];
        while let Some(pid) = all.pop() {
            if proc::Status::of(pid).field("NSpid").split(' ').next_back() == Some(inside) {
                return pid;
            }
            all.extend(proc::children(pid));
        }
        panic!("no process {inside} of {unit} in the Debian");
    }
}

impl Drop for Debian<'_> {
    fn drop(&mut self) {
        if self.init.is_some() {
            show_if_it_fails("the journal", || {
                // With a limit in time: it may be what hangs.
                let line = ["10", "journalctl", "--boot", "--no-pager", "--lines=200"];
                let journal = self.command("timeout").args(line).output().map(|output| output.stdout);
                String::from_utf8_lossy(&journal.unwrap_or_default()).into_owned()
            });
        }
        // Its processes end with the host; only its cgroup would be left.
        let _ =
            self.host.command("sh").args(["-c", "echo 1 >\"$1/cgroup.kill\"", "kill", &self.cgroup]).status();
        drop(self.nspawn.take());
        remove_cgroup(self.host, &self.cgroup);
    }
}

/// The cgroup of what runs on this host: cgroups(7), version 2, wherever this machine has it.
fn new_cgroup(host: &Host) -> String {
    const ALL: &str = "/sys/fs/cgroup";
    const PREFIX: &str = "wakevirt-test-";
    host.sh(&format!("mount -t cgroup2 cgroup2 {ALL}"));
    // Those of tests that were killed.
    for old in host.sh(&format!("cd {ALL} && ls -d {PREFIX}* 2>/dev/null || true")).lines() {
        if !Path::new("/proc").join(old.trim_start_matches(PREFIX)).exists() {
            remove_cgroup(host, &format!("{ALL}/{old}"));
        }
    }
    let cgroup = format!("{ALL}/{PREFIX}{}", host.init());
    host.sh(&format!("mkdir {cgroup}"));
    cgroup
}

/// Removes a cgroup when the last of its processes is gone.
fn remove_cgroup(host: &Host, cgroup: &str) {
    let _ = wait::within(wait::TIMEOUT, || {
        let mut find = host.command("find");
        find.args([cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
        let status = find.stderr(std::process::Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then_some(())
    });
}
