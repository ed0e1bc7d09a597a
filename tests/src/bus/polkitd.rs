//! polkit on a host: a real polkitd on its system bus.

use std::path::Path;
use std::process::Command;

use crate::host::{Host, User};
use crate::process::Process;
use crate::wait;

/// polkit's name on the bus.
pub const NAME: &str = "org.freedesktop.PolicyKit1";
/// What comes with polkitd.
const POLICY: &str = "/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf";
const SERVICE: &str = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service";
const ACTIONS: &str = "/usr/share/polkit-1/actions";
const RULES: &str = "/usr/share/polkit-1/rules.d";
const OWN_ACTIONS: &str = "org.freedesktop.policykit.policy";
const OWN_RULES: &str = "50-default.rules";
/// Where the bus of a host looks for them.
const BUS_POLICY: &str = "/run/bus/policies/org.freedesktop.PolicyKit1.conf";
const AGENT: &str = "/run/polkit/agent.py";
const BUS_SERVICE: &str = "/run/bus/services/org.freedesktop.PolicyKit1.service";

/// polkit on a host, with the actions and rules that come with polkitd and no others.
///
/// It is set up before the host's [`Bus`](crate::bus::Bus) starts. From then on it can be activated, as
/// where the distribution's package is installed, but by dbus-daemon alone: dbus-broker leaves that to
/// systemd, which a host has not. Either takes one that [`Self::start`] runs.
#[derive(Debug)]
pub struct Polkitd<'host> {
    host: &'host Host,
    process: Option<Process>,
}

impl<'host> Polkitd<'host> {
    /// Sets polkit up. Nothing runs yet.
    ///
    /// # Panics
    /// If polkitd is not installed on this machine.
    #[must_use]
    pub fn install(host: &'host Host) -> Self {
        // What the machine's administrator and other packages allow is not what a test is about.
        // polkitd reads the rules as its own user, as Debian's modes of these folders say.
        host.sh(&format!(
            "rm -rf /etc/polkit-1 /var/lib/polkit-1
            install -d /run/polkit/actions /run/bus/policies /run/bus/services
            install -d -o polkitd -m 700 /run/polkit/rules /etc/polkit-1 /etc/polkit-1/rules.d
            install -m 644 -t /run/polkit/actions {ACTIONS}/{OWN_ACTIONS}
            install -m 644 -t /run/polkit/rules {RULES}/{OWN_RULES}
            mount --bind /run/polkit/actions {ACTIONS}
            mount --bind /run/polkit/rules {RULES}
            cp {POLICY} {BUS_POLICY}
            cp {SERVICE} {BUS_SERVICE}"
        ));
        Self { host, process: None }
    }

    /// Takes back that the bus can activate it. Before the bus starts: dbus-broker reads it only then.
    pub fn without_activation(self) -> Self {
        self.host.sh(&format!("rm {BUS_SERVICE}"));
        self
    }

    /// Adds actions, a file of this machine, as a package installs them. A polkitd that runs reads them
    /// soon; [`Self::start`] it afterwards to be sure.
    pub fn add_actions(&self, file: &Path) {
        self.add(ACTIONS, file);
    }

    /// Adds rules, a file of this machine, as a package installs them. See [`Self::add_actions`].
    pub fn add_rules(&self, file: &Path) {
        self.add(RULES, file);
    }

    /// Adds rules, as the administrator does: `name` is the file's, without folder. See
    /// [`Self::add_actions`].
    pub fn write_rules(&self, name: &str, script: &str) {
        self.host.write(&format!("/etc/polkit-1/rules.d/{name}"), script);
    }

    /// A program that is to run on the host as this user and has an authentication agent at its side,
    /// which answers so: see `agent.py`.
    #[must_use]
    pub fn command_with_agent(&self, user: User, answer: &str, program: &str) -> Command {
        self.host.write(AGENT, include_str!("agent.py"));
        let mut command = self.host.command_as(user, "python3");
        command.args(["-I", AGENT, answer, program]);
        command
    }

    fn add(&self, folder: &str, file: &Path) {
        let name = file.file_name().expect("a file has a name").to_string_lossy();
        let text =
            std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.host.write(&format!("{folder}/{name}"), &text);
    }

    /// Runs polkitd, and waits until it is on the bus.
    ///
    /// # Panics
    /// If it does not come, with its log.
    pub fn start(&mut self) {
        // As its unit and its service file say; it changes to the user polkitd by itself.
        let service = self.host.read(SERVICE);
        let line = service.lines().find_map(|line| line.strip_prefix("Exec=")).expect("it is a service file");
        let mut words = line.split_whitespace().filter(|word| *word != "--no-debug");
        let mut command = self.host.command(words.next().expect("a program"));
        let mut process = Process::start("polkitd", command.args(words));
        let owned = wait::until("polkitd to start", || match self.host.name_is_owned(NAME) {
            true => Some(true),
            false => process.exit_status().map(|_| false),
        });
        assert!(owned, "polkitd does not run\n{}", process.log().all().join("\n"));
        self.process = Some(process);
    }

    /// What [`Self::start`] runs.
    ///
    /// # Panics
    /// If nothing does.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("polkitd was started")
    }

    /// Stops polkitd, whoever started it. Where it is activatable, the next call to it starts another one.
    ///
    /// # Panics
    /// If it does not go.
    pub fn stop(&mut self) {
        self.host.sh(&format!("kill -KILL {}", self.pid()));
        wait::until_true("polkitd to be gone", || !self.host.name_is_owned(NAME));
        self.process = None;
    }

    /// The process ID of the polkitd that runs, as the host sees it.
    ///
    /// # Panics
    /// If none does.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let name = format!("'{NAME}'");
        let reply =
            self.host.call(User::Root, "org.freedesktop.DBus", "GetConnectionUnixProcessID", &[&name]);
        let reply = reply.expect("polkitd runs");
        let digits = reply.trim_start_matches("(uint32 ").trim_end_matches(",)");
        digits.parse().unwrap_or_else(|_| panic!("no process ID: {reply}"))
    }
}
