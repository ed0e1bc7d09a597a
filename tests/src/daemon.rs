//! The wakevirt services on a host.

use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};

use crate::host::{Host, PROGRAMS, User};
use crate::process::Process;
use crate::process::lines::Lines;
use crate::process::socket::MessageSocket;
use crate::wait;

/// Who starts a service, and with which user and capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedBy {
    /// Root. The service switches to its own user.
    Root,
    /// A service manager, which sets the user and the ambient capabilities as the units request.
    Manager,
    /// The service's user, without capabilities.
    Unprivileged,
}

/// Configures and starts a service.
#[derive(Debug)]
pub struct Starter<'host> {
    host: &'host Host,
    name: &'static str,
    bus_name: &'static str,
    user: User,
    started_by: StartedBy,
    restricted: bool,
    drop_ins: bool,
    boottime_offset: usize,
    watchdog: Option<Duration>,
    log_to: &'static str,
    config: String,
    file: String,
    options: Vec<String>,
}

impl<'host> Starter<'host> {
    /// Sets the content of the service's configuration file, which is empty by default.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// Writes the configuration to the standard file, so that the service also reads drop-ins.
    #[must_use]
    pub fn with_drop_ins(mut self) -> Self {
        self.file = format!("/etc/wakevirt/{}.toml", self.name.trim_start_matches("wakevirt-"));
        self.drop_ins = true;
        self
    }

    /// Adds options to the command line.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Sets who starts the service. The default is [`StartedBy::Manager`].
    #[must_use]
    pub fn started_by(mut self, started_by: StartedBy) -> Self {
        self.started_by = started_by;
        self
    }

    /// Makes the service log to the journal instead of standard error. The host needs a journal.
    #[must_use]
    pub fn log_to_journal(mut self) -> Self {
        self.log_to = "journal";
        self
    }

    /// Adds this to the service's CLOCK_BOOTTIME, in seconds: time_namespaces(7). The [`Process`] is then unshare(1),
    /// with which the service exits.
    #[must_use]
    pub fn boottime_offset(mut self, seconds: usize) -> Self {
        self.boottime_offset = seconds;
        self
    }

    /// Enables the service manager's watchdog with this timeout: `WatchdogSec=` in systemd.service(5). Nothing reacts if
    /// the service does not send its messages.
    #[must_use]
    pub fn watchdog(mut self, timeout: Duration) -> Self {
        self.watchdog = Some(timeout);
        self
    }

    /// Makes the actor run without the `libvirt` group, as the shipped drop-in for its unit does.
    #[must_use]
    pub fn restricted(mut self) -> Self {
        self.restricted = true;
        self
    }

    /// Starts the service without waiting until it is ready.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(self) -> Daemon {
        let path = format!("/run/notify-{}", unique_number());
        let notifications = MessageSocket::bind(&self.host.path(&path), |lines, message| {
            String::from_utf8_lossy(message).lines().for_each(|line| lines.push(line.to_owned()));
        });
        let mut command = self.command();
        command.env("NOTIFY_SOCKET", path);
        let process = Process::start(self.name, &mut command);
        Daemon { process, notifications, file: self.file }
    }

    /// Starts the service, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_ready(self) -> Daemon {
        let mut daemon = self.start();
        daemon.wait_until_ready();
        daemon
    }

    /// Starts the service, and waits until it is ready and owns its name on the bus.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    #[must_use]
    pub fn start_on_bus(self) -> Daemon {
        let (host, name) = (self.host, self.bus_name);
        let daemon = self.start_ready();
        host.wait_for_name(name);
        daemon
    }

    /// Starts the actor, and waits until it knows the domains of a hypervisor. Until then, every address is unknown to
    /// it.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    #[must_use]
    pub fn start_connected(self) -> Daemon {
        let daemon = self.start_on_bus();
        let _ = daemon.log().wait_for("connected to");
        daemon
    }

    /// The command that starts the service, without a socket for its notifications.
    fn command(&self) -> Command {
        let mut config = self.config.clone();
        if self.user == User::Capture && !kernel_has_landlock() && !config.contains("require-landlock") {
            config.insert_str(0, "require-landlock = false\n");
        }
        self.host.write(&self.file, &config);
        let mut runtime_directory = None;
        if (self.user, self.started_by) == (User::Actor, StartedBy::Manager) {
            // RuntimeDirectory= in systemd.exec(5). Here, the directory remains when the service stops.
            let (user, directory) = (self.user.name(), format!("/run/{}", self.name));
            // It can be on a read-only filesystem.
            let is_fixed = format!("[ -d {directory} ] && [ ! -w {directory} ]");
            self.host.sh(&format!("{is_fixed} || install -d -o {user} -g {user} {directory}"));
            runtime_directory = Some(("RUNTIME_DIRECTORY", directory));
        }
        let mut line = vec![];
        let user = self.user.name();
        if self.started_by != StartedBy::Root {
            // SupplementaryGroups= in systemd.exec(5).
            let groups = match (self.user, self.restricted) {
                (User::Actor, false) => "--groups=wakevirt-actor,libvirt",
                _ => "--init-groups",
            };
            line.push("setpriv");
            if self.boottime_offset > 0 {
                // A change of the user clears the signal that unshare(1) sets: PR_SET_PDEATHSIG(2const).
                line.extend(["--pdeathsig", "SIGKILL"]);
            }
            line.extend(["--reuid", user, "--regid", user, groups, "--no-new-privs"]);
            line.extend(match (self.user, self.started_by) {
                (User::Capture, StartedBy::Manager) => {
                    ["--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw"]
                        .as_slice()
                }
                _ => ["--bounding-set=-all"].as_slice(),
            });
            line.push("--");
        }
        let program = format!("{PROGRAMS}/{}", self.name);
        line.extend([program.as_str(), "--log-to", self.log_to]);
        if !self.drop_ins {
            line.extend(["--config", &self.file]);
        }
        line.extend(self.options.iter().map(String::as_str));
        let offset = self.boottime_offset.to_string();
        if self.boottime_offset > 0 {
            let unshare = ["unshare", "--time", "--boottime", &offset, "--fork", "--kill-child"];
            line.splice(0..0, unshare);
        }
        // The line contains at least the program.
        let (first, rest) = line.split_first().unwrap_or((&"false", &[]));
        let mut command = self.host.command(first);
        command.args(rest).envs(runtime_directory);
        command.envs(self.watchdog.map(|timeout| ("WATCHDOG_USEC", timeout.as_micros().to_string())));
        command
    }
}

/// Whether the kernel is new enough for Landlock: Linux 5.13 (landlock(7)). On older kernels, [`Starter`] makes capture
/// run without Landlock unless the configuration contains `require-landlock`.
///
/// # Panics
/// If the kernel's version cannot be read.
#[must_use]
pub fn kernel_has_landlock() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel has a version");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(13))
}

/// A running service. It dereferences to its [`Process`].
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    /// The service manager's socket for sd_notify(3).
    notifications: MessageSocket,
    file: String,
}

impl Daemon {
    /// The capture service, `wakevirt-capture`.
    #[must_use]
    pub fn capture(host: &Host) -> Starter<'_> {
        Self::service(host, "wakevirt-capture", CAPTURE_NAME, User::Capture)
    }

    /// The actor service, `wakevirt-actor`.
    #[must_use]
    pub fn actor(host: &Host) -> Starter<'_> {
        Self::service(host, "wakevirt-actor", ACTOR_NAME, User::Actor)
    }

    /// The actor for KubeVirt, `wakevirt-kubevirt`.
    #[must_use]
    pub fn kubevirt(host: &Host) -> Starter<'_> {
        Self::service(host, "wakevirt-kubevirt", ACTOR_NAME, User::Actor)
    }

    fn service<'host>(
        host: &'host Host,
        name: &'static str,
        bus_name: &'static str,
        user: User,
    ) -> Starter<'host> {
        Starter {
            host,
            name,
            bus_name,
            user,
            started_by: StartedBy::Manager,
            restricted: false,
            drop_ins: false,
            boottime_offset: 0,
            watchdog: None,
            log_to: "stderr",
            config: String::new(),
            file: format!("/etc/wakevirt/{name}-test-{}.toml", unique_number()),
            options: Vec::new(),
        }
    }

    /// Waits for `READY=1`: sd_notify(3).
    ///
    /// # Panics
    /// If it exits or does not become ready. The message contains its log.
    pub fn wait_until_ready(&mut self) {
        let ready = wait::within(wait::TIMEOUT, || {
            if self.notifications.lines().count("READY=1") > 0 {
                Some(true)
            } else {
                self.exit_status().map(|_| false)
            }
        });
        assert!(ready == Some(true), "the service is not ready:\n{}", self.log().all().join("\n"));
    }

    /// Its configuration file on the host.
    #[must_use]
    pub fn config_file(&self) -> &str {
        &self.file
    }

    /// Its notifications to the service manager, such as `READY=1` and `STATUS=…`, one per line.
    #[must_use]
    pub fn notifications(&self) -> &Lines {
        self.notifications.lines()
    }
}

impl Deref for Daemon {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Returns a different number on each call.
pub(crate) fn unique_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
