//! A Debian host in QEMU, with its own kernel and all of that kernel's modules: `scripts/vm`. It needs no KVM. It has been
//! booted before, so that it is ready after a few seconds. AppArmor is in enforce mode.
//!
//! Tests use it for what the kernel of the machine that runs the tests might not have, such as VLANs, suspend to RAM, huge
//! pages or cgroup controllers.

mod channel;
mod domain;
mod monitor;
mod prepared;

pub use domain::{Code, Domain};

use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::host::{Host, project, succeed};
use crate::process::{Process, print_on_failure};
use crate::vm::channel::Channel;
use crate::vm::monitor::Monitor;
use crate::wait;

/// The directory of its files, as a path on the [`Host`].
const DIRECTORY: &str = "/run/vm";

/// Starts QEMU. `$1` is the directory that `scripts/vm` prints. Writes to the disk go to a temporary file.
const START: &str = r#"
export TMPDIR=/run/vm
exec "$1/start" /run/vm/files.tar /run/vm/commands /run/vm/monitor
"#;

/// Installs the files on the second disk. The clock of a stored host is behind.
const UNPACK: &str = "
blockdev --flushbufs /dev/vdb
tar --extract --file=/dev/vdb --directory=/ --no-same-owner --keep-directory-symlink
systemd-sysusers
systemctl daemon-reload
systemctl reload dbus
systemd-tmpfiles --create --prefix=/etc/wakevirt --prefix=/run --prefix=/sys --prefix=/var
";

const CONNECT_LAN: &str = "
ip netns add lan
ip link add eth0 type veth peer name lan0 netns lan
ip link set eth0 up
ip -n lan link set lan0 up
";

/// Both timeouts of a suspend, this one and that of the suspend itself, are shorter than that of a reply together.
const WAIT_FOR_SLEEP: &str = "
units='sleep.target suspend.target wakevirt-suspend.service'
deadline=$(( SECONDS + 90 ))
while systemctl list-jobs --no-legend | grep --quiet . || systemctl --quiet is-active $units; do
    if (( SECONDS > deadline )); then
        echo 'these units still start, stop or sleep:'
        systemctl list-jobs
        systemctl list-units $units
        exit 1
    fi
    sleep 0.2
done
";

/// How often the kernel has suspended.
const SUSPENDS: &str = "/sys/power/suspend_stats/success";

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit status.
    pub status: i32,
    /// Its standard output and standard error.
    pub output: String,
}

/// A Debian host in QEMU, which ends with the value.
#[derive(Debug)]
pub struct Vm {
    commands: Channel,
    monitor: Monitor,
    qemu: Process,
}

impl Vm {
    /// Starts it, with the programs of this build installed as by `make install PREFIX=/usr`. Their units are disabled.
    /// QEMU runs on `host`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn boot(host: &Host) -> Self {
        let vm = succeed(&mut Command::new(project().join("scripts/vm")));
        let files = format!("{DIRECTORY}/files");
        host.install(&files, "systemd");
        host.sh(&format!(
            "find {files} -type f -executable -exec strip --strip-debug {{}} + 2>/dev/null || true
             tar --create --file={DIRECTORY}/files.tar --directory={files} ."
        ));
        let qemu = Process::start("QEMU", host.command("sh").args(["-euc", START, "start"]).arg(vm.trim()));
        let commands = Channel::connect(&host.path(&format!("{DIRECTORY}/commands")));
        let monitor = Monitor::connect(&host.path(&format!("{DIRECTORY}/monitor")));
        let mut vm = Self { commands, monitor, qemu };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        vm.sh(&format!("date --set=@{now}; busybox hwclock --systohc --utc\n{UNPACK}"));
        vm
    }

    /// Suspends it to RAM as an administrator would, and wakes it up after this time. Returns when systemd has started and
    /// stopped the units that belong to sleep.
    ///
    /// # Panics
    /// If it does not suspend, or does not wake up.
    pub fn suspend(&mut self, time: Duration) {
        // A single script: when the kernel suspends, it discards what nobody has read from the port.
        let script = format!(
            "suspends() {{ cat {SUSPENDS}; }}
             before=$(suspends)
             systemctl suspend
             while (( $(suspends) == before )); do
                 (( SECONDS < {} )) || {{ journalctl --no-pager --lines=50; exit 1; }}
                 sleep 0.2
             done
             {WAIT_FOR_SLEEP}
             (( $(suspends) == before + 1 ))",
            time.as_secs() + 90
        );
        let woken = self.send(&script).and_then(|()| self.monitor.wait_for("SUSPEND")).and_then(|()| {
            thread::sleep(time);
            self.monitor.execute("system_wakeup")
        });
        // If it does not suspend, the script ends with an error.
        let Finished { status, output } = self.receive().unwrap_or_else(|error| self.fail(&error));
        assert!(
            woken.is_ok() && status == 0,
            "the virtual machine did not suspend and wake up: {woken:?}\n{output}"
        );
    }

    /// How often it has suspended to RAM.
    ///
    /// # Panics
    /// If the kernel does not say so.
    pub fn suspends(&mut self) -> u32 {
        self.sh(&format!("cat {SUSPENDS}")).trim().parse().expect("a number")
    }

    /// Waits until systemd has no job, and none of the units that belong to sleep is active.
    ///
    /// # Panics
    /// If this takes too long.
    pub fn wait_for_sleep(&mut self) {
        self.sh(WAIT_FOR_SLEEP);
    }

    /// Starts domains without AppArmor. It compiles a profile several times for each start, which takes seconds.
    ///
    /// # Panics
    /// If libvirt's configuration cannot be changed.
    pub fn without_apparmor(&mut self) {
        self.sh("echo 'security_driver = \"none\"' >>/etc/libvirt/qemu.conf
                 systemctl try-restart libvirtd.service");
    }

    /// Connects another machine, the network namespace `lan`, with its interface `lan0`, to a new interface `eth0`.
    ///
    /// # Panics
    /// If the interfaces cannot be created.
    pub fn connect_lan(&mut self) {
        self.sh(CONNECT_LAN);
    }

    /// Runs a bash script as root, and returns its exit status and its output.
    ///
    /// # Panics
    /// If the host does not reply in time, with the console in the message.
    pub fn run(&mut self, script: &str) -> Finished {
        self.exchange(script).unwrap_or_else(|error| self.fail(&error))
    }

    /// Runs a bash script as root, and returns its output.
    ///
    /// # Panics
    /// If it fails, with its output in the message.
    pub fn sh(&mut self, script: &str) -> String {
        let Finished { status, output } = self.run(script);
        assert_eq!(status, 0, "`{script}` failed:\n{output}");
        output
    }

    /// Writes a file (owner root, mode 0644). The parent directory must exist.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&mut self, path: &str, text: &str) {
        self.sh(&format!("cat >{path} <<'END OF FILE'\n{text}\nEND OF FILE"));
    }

    fn exchange(&mut self, script: &str) -> io::Result<Finished> {
        self.send(script)?;
        self.receive()
    }

    fn send(&mut self, script: &str) -> io::Result<()> {
        self.commands.send(&format!("{}\n{script}", script.len()))
    }

    fn receive(&mut self) -> io::Result<Finished> {
        let line = self.commands.read_line()?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(Ok(status)), Some(Ok(length))) = (numbers.next(), numbers.next()) else {
            return Err(io::Error::other(format!("unexpected reply {line:?}")));
        };
        let output = self.commands.read(usize::try_from(length).map_err(io::Error::other)?)?;
        Ok(Finished { status, output: String::from_utf8_lossy(&output).into_owned() })
    }

    fn fail(&mut self, error: &io::Error) -> ! {
        let status = self.monitor.execute("query-status");
        panic!(
            "no reply from the virtual machine: {error}\nQEMU: {status:?}\n{}",
            self.qemu.log().all().join("\n")
        )
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        print_on_failure("the virtual machine's journal", || {
            self.commands.set_timeout(wait::TIMEOUT);
            let journal = self.exchange("journalctl --no-pager --lines=200");
            journal.map_or_else(|error| error.to_string(), |journal| journal.output)
        });
    }
}
