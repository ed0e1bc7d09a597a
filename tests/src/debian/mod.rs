//! A Debian system on a host, with systemd as its first process. systemd-nspawn(1) boots the tree that `scripts/tree`
//! creates. The `DEBIAN` environment variable selects the release.

pub mod inventory;
pub mod modular;
pub mod package;
pub mod ssh;

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;

use crate::bus::Kind;
use crate::host::{Host, as_user, on_system, project, succeed};
use crate::process::proc;
use crate::process::{Process, print_on_failure};
use crate::wait;

/// The root directory of the system, as a path on the host. Writes go to a tmpfs.
pub const ROOT: &str = "/run/debian/root";

/// The exit status of systemd-nspawn(1) with `--keep-unit` when the system reboots.
const REBOOTED: i32 = 133;

/// Changes Debian's defaults before the system is booted.
///
/// `$1` is the tree from `scripts/tree`, `$2` the bus's unit. QEMU runs without its protections, because there is
/// neither AppArmor nor a cgroup controller. The masked units need hardware or the network, or are those of Samba, whose
/// server wakevirt's own unit runs.
const PREPARE: &str = r#"
mkdir -p /run/debian/upper /run/debian/work /run/debian/root
mount -t overlay -o "lowerdir=$1,upperdir=/run/debian/upper,workdir=/run/debian/work" overlay /run/debian/root
cd /run/debian/root/etc
tr -d - </proc/sys/kernel/random/uuid >machine-id
echo debian >hostname
printf 'security_driver = "none"\nseccomp_sandbox = 0\n' >>libvirt/qemu.conf
ln -sfn "/lib/systemd/system/$2" systemd/system/dbus.service
for unit in apt-daily.timer apt-daily-upgrade.timer cockpit.socket console-getty.service dev-hugepages.mount getty.target modprobe@.service \
    nmbd.service samba-ad-dc.service smbd.service sys-fs-fuse-connections.mount \
    systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service; do
    ln -sfn /dev/null "systemd/system/$unit"
done
"#;

/// Boots the system. `$1` is its cgroup, `$2` its root directory.
///
/// It shares the host's network. It has the capabilities and system calls to change that network, to filter the packets
/// of its units, and to allow the units to use Landlock.
const BOOT: &str = r#"
echo $$ >"$1/cgroup.procs"
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --boot \
    --machine=debian --directory="$2" --network-namespace-path=/proc/self/ns/net --console=pipe --link-journal=no \
    --bind=/dev/net/tun --capability=CAP_NET_ADMIN,CAP_BPF --system-call-filter="bpf landlock_create_ruleset landlock_restrict_self"
"#;

/// A Debian system on a [`Host`], which shares the host's network. It has a system bus, polkit, libvirt and QEMU. Tests
/// install wakevirt.
#[derive(Debug)]
pub struct Debian<'host> {
    host: &'host Host,
    cgroup: String,
    nspawn: Option<Process>,
    init: Option<Pid>,
}

/// The tree of the Debian release that this machine runs, for tests that need files from packages that are not
/// installed on this machine.
///
/// # Panics
/// If it cannot be created.
#[must_use]
pub fn tree_of_same_release() -> PathBuf {
    succeed(tree().env_remove("DEBIAN")).trim().into()
}

/// The tree of this Debian release, which must be one that `scripts/tree` supports.
///
/// # Panics
/// If it cannot be created.
#[must_use]
pub fn tree_of(release: &str) -> PathBuf {
    succeed(tree().env("DEBIAN", release)).trim().into()
}

/// The script that prints the path of the tree.
fn tree() -> Command {
    Command::new(project().join("scripts/tree"))
}

impl<'host> Debian<'host> {
    /// Prepares a system without booting it.
    ///
    /// # Panics
    /// If a step fails.
    #[must_use]
    pub fn new(host: &'host Host, bus: Kind) -> Self {
        let tree = succeed(&mut tree());
        let bus = match bus {
            Kind::DbusDaemon => "dbus.service",
            Kind::DbusBroker => "dbus-broker.service",
        };
        succeed(host.command("sh").args(["-euc", PREPARE, "prepare"]).arg(tree.trim()).arg(bus));
        let cgroup = new_cgroup(host);
        Self { host, cgroup, nspawn: None, init: None }
    }

    /// Installs the programs of this build before the system is booted, like `make install PREFIX=/usr`.
    ///
    /// # Panics
    /// If a step fails.
    pub fn install(&self) {
        self.host.install(ROOT, "systemd");
        // systemd creates the directories at boot, but the users only if /usr is newer than /etc.
        succeed(self.chroot("systemd-sysusers").args(["wakevirt.conf", "wakevirt-host.conf"]));
    }

    /// A command that runs a program in the root directory of the system, which is not booted. Only `/proc` is mounted
    /// there.
    #[must_use]
    pub fn chroot(&self, program: &str) -> Command {
        self.host.chroot(ROOT, program)
    }

    /// The path of one of the system's files, for this process. The system does not have to be booted. The files in its
    /// `/run` are not visible to this process.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.host.path(&format!("{ROOT}{inside}"))
    }

    /// Writes a file (owner root, mode 0644), and creates its parent directories.
    pub fn write(&self, inside: &str, text: &str) {
        self.host.write(&format!("{ROOT}{inside}"), text);
    }

    /// Copies a file from this machine to the system.
    ///
    /// # Panics
    /// If the file cannot be copied.
    pub fn copy(&self, from: &Path, inside: &str) {
        let copied = std::fs::copy(from, self.path(inside));
        copied.unwrap_or_else(|error| panic!("cannot copy {} to the Debian system: {error}", from.display()));
    }

    /// Boots the system, and returns when systemd reports that startup is complete. Some units might have failed.
    ///
    /// # Panics
    /// If startup does not complete.
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
        assert!(up.is_some(), "the Debian system did not start:\n{}", nspawn.log().all().join("\n"));
        self.nspawn = Some(nspawn);
    }

    /// Reboots the system with systemctl(1), and returns when startup is complete.
    ///
    /// # Panics
    /// If it does not shut down, or startup does not complete.
    pub fn reboot(&mut self) {
        self.sh("systemctl reboot");
        let mut nspawn = self.nspawn.take().expect("the system is booted");
        let status = wait::within(3 * wait::TIMEOUT, || nspawn.exit_status());
        assert_eq!(
            status.and_then(|status| status.code()),
            Some(REBOOTED),
            "{}",
            nspawn.log().all().join("\n")
        );
        self.boot();
    }

    /// The system's first process, in the PID namespace of this process.
    ///
    /// # Panics
    /// If it is not booted.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init.expect("the system is booted")
    }

    /// A command that runs a program on the system as root, outside its units and their restrictions.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        // systemd 257 returns EUNATCH to processes outside its part of the cgroup tree.
        let procs = self.host.path(&format!("{}/payload/cgroup.procs", self.cgroup));
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo 0 >"$0" && exec nsenter "$@""#]).arg(procs);
        on_system(command, self.init(), program)
    }

    /// A command that runs a program on the system as this user, with the user's groups.
    #[must_use]
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        as_user(self.command("setpriv"), user, program)
    }

    /// Runs a shell command as this user, whose service manager must be running, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn in_session(&self, user: &str, line: &str) -> String {
        let set = "export XDG_RUNTIME_DIR=/run/user/$(id -u) DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$(id -u)/bus";
        let mut command = self.command_as(user, "env");
        command.args([&format!("HOME=/home/{user}"), "bash", "-euc", &format!("{set}; {line}")]);
        succeed(&mut command)
    }

    /// The log of this user unit, for all users, since the last boot.
    #[must_use]
    pub fn user_journal(&self, unit: &str) -> String {
        self.logged(&format!("_SYSTEMD_USER_UNIT={unit}.service"))
    }

    /// Runs a shell command on the system as root, and returns its output.
    ///
    /// # Panics
    /// If it fails, with its standard error and the end of the journal in the message.
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("bash").args(["-euc", line]).output().expect("nsenter runs");
        if !output.status.success() {
            let journal =
                self.command("journalctl").args(["--no-pager", "--lines=60"]).output().expect("nsenter runs");
            let [stderr, journal] =
                [&output.stderr, &journal.stdout].map(|text| String::from_utf8_lossy(text));
            panic!("`{line}` failed ({}):\n{stderr}\nthe journal:\n{journal}", output.status);
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The log of this unit since the last boot.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.logged(&format!("--unit={unit}"))
    }

    /// Everything that was logged before the call, selected by these arguments of journalctl(1). Without `--sync`, a
    /// busy journald can return less.
    #[must_use]
    pub fn logged(&self, selection: &str) -> String {
        self.sh(&format!("journalctl --sync; journalctl --boot --no-pager --output=cat {selection}"))
    }

    /// Waits until the actor knows the only domain.
    ///
    /// # Panics
    /// If it does not know exactly one domain.
    pub fn wait_until_domain_is_known(&self) {
        let count =
            "busctl get-property org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Domains";
        wait::until_true("the actor to know the domain", || self.sh(count) == "u 1\n");
    }

    /// The main process of a unit, in the PID namespace of this process.
    ///
    /// # Panics
    /// If the unit is not running.
    #[must_use]
    pub fn main_process(&self, unit: &str) -> Pid {
        let inside = self.sh(&format!("systemctl show --property=MainPID --value {unit}"));
        let inside = inside.trim();
        assert_ne!(inside, "0", "{unit} is not running:\n{}", self.journal(unit));
        let is_main = |pid: &Pid| {
            let status = proc::Status::if_exists(*pid);
            status.is_ok_and(|status| status.field("NSpid").split(' ').next_back() == Some(inside))
        };
        let main = proc::tree(self.init()).into_iter().find(is_main);
        main.unwrap_or_else(|| panic!("process {inside} of {unit} is not in the Debian system"))
    }
}

impl Drop for Debian<'_> {
    fn drop(&mut self) {
        if self.init.is_some() {
            print_on_failure("the journal", || {
                // journalctl runs with a timeout, because it can hang as well.
                let line = ["10", "journalctl", "--boot", "--no-pager", "--lines=200"];
                let journal = self.command("timeout").args(line).output().map(|output| output.stdout);
                String::from_utf8_lossy(&journal.unwrap_or_default()).into_owned()
            });
        }
        // The processes end with the host, but the cgroup would remain.
        let _ =
            self.host.command("sh").args(["-c", "echo 1 >\"$1/cgroup.kill\"", "kill", &self.cgroup]).status();
        drop(self.nspawn.take());
        remove_cgroup(self.host, &self.cgroup);
    }
}

/// Creates a cgroup for the processes of a host: version 2 in cgroups(7).
fn new_cgroup(host: &Host) -> String {
    const MOUNT_POINT: &str = "/sys/fs/cgroup";
    const PREFIX: &str = "wakevirt-test-";
    host.sh(&format!("mount -t cgroup2 cgroup2 {MOUNT_POINT}"));
    // Remove the cgroups of tests that were killed.
    for old in host.sh(&format!("cd {MOUNT_POINT} && ls -d {PREFIX}* 2>/dev/null || true")).lines() {
        if !Path::new("/proc").join(old.trim_start_matches(PREFIX)).exists() {
            remove_cgroup(host, &format!("{MOUNT_POINT}/{old}"));
        }
    }
    let cgroup = format!("{MOUNT_POINT}/{PREFIX}{}", host.init());
    host.sh(&format!("mkdir {cgroup}"));
    cgroup
}

/// Removes a cgroup when all its processes have exited.
fn remove_cgroup(host: &Host, cgroup: &str) {
    let _ = wait::within(wait::TIMEOUT, || {
        let mut find = host.command("find");
        find.args([cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
        let status = find.stderr(std::process::Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then_some(())
    });
}
