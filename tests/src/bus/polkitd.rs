//! A real polkitd on the system bus of a host.

use std::path::Path;
use std::process::Command;

use crate::host::{Host, User};
use crate::process::Process;
use crate::wait;

/// polkit's bus name.
pub const NAME: &str = "org.freedesktop.PolicyKit1";
/// The files of the `polkitd` package.
const POLICY: &str = "/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf";
const SERVICE: &str = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service";
const ACTIONS: &str = "/usr/share/polkit-1/actions";
const RULES: &str = "/usr/share/polkit-1/rules.d";
const OWN_ACTIONS: &str = "org.freedesktop.policykit.policy";
const OWN_RULES: &str = "50-default.rules";
/// The copies of these files for a host's bus.
const BUS_POLICY: &str = "/run/bus/policies/org.freedesktop.PolicyKit1.conf";
const BUS_SERVICE: &str = "/run/bus/services/org.freedesktop.PolicyKit1.service";
/// The authentication agent.
const AGENT: &str = "/run/polkit/agent.py";

/// polkit on a host, with only the actions and rules of the `polkitd` package.
///
/// It must be installed before the host's [`Bus`](crate::bus::Bus) starts. dbus-daemon can then activate it, as on a
/// system with the distribution's package. dbus-broker cannot, because it leaves activation to systemd, which is not
/// running on a host. With either bus, [`Self::start`] starts it.
#[derive(Debug)]
pub struct Polkitd<'host> {
    host: &'host Host,
    process: Option<Process>,
}

impl<'host> Polkitd<'host> {
    /// Installs polkit without starting it.
    ///
    /// # Panics
    /// If polkitd is not installed on this machine.
    #[must_use]
    pub fn install(host: &'host Host) -> Self {
        // Tests must not depend on the rules of this machine's administrator or of other packages. polkitd reads the
        // rules as its own user, so these directories have the same modes as on Debian.
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

    /// Prevents activation by the bus. The bus must not be running yet, because dbus-broker reads the file only at
    /// startup.
    pub fn without_activation(self) -> Self {
        self.host.sh(&format!("rm {BUS_SERVICE}"));
        self
    }

    /// Installs an actions file from this machine, as a package would. A running polkitd reads it with a delay, so call
    /// [`Self::start`] afterwards.
    pub fn add_actions(&self, file: &Path) {
        self.add(ACTIONS, file);
    }

    /// Installs a rules file from this machine, as a package would. See [`Self::add_actions`].
    pub fn add_rules(&self, file: &Path) {
        self.add(RULES, file);
    }

    /// Writes rules to a file with this name in the administrator's directory. See [`Self::add_actions`].
    pub fn write_rules(&self, name: &str, script: &str) {
        self.host.write(&format!("/etc/polkit-1/rules.d/{name}"), script);
    }

    /// A command that runs a program on the host as this user, with an authentication agent that gives this answer. See
    /// `agent.py`.
    #[must_use]
    pub fn command_with_agent(&self, user: User, answer: &str, program: &str) -> Command {
        self.host.write(AGENT, include_str!("agent.py"));
        let mut command = self.host.command_as(user, "python3");
        command.args(["-I", AGENT, answer, program]);
        command
    }

    fn add(&self, directory: &str, file: &Path) {
        let name = file.file_name().expect("a file has a name").to_string_lossy();
        let text =
            std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.host.write(&format!("{directory}/{name}"), &text);
    }

    /// Starts polkitd, and waits until it is on the bus.
    ///
    /// # Panics
    /// If it does not start, with its log in the message.
    pub fn start(&mut self) {
        // This is the command in its service file. polkitd switches to its own user.
        let service = self.host.read(SERVICE);
        let line = service
            .lines()
            .find_map(|line| line.strip_prefix("Exec="))
            .expect("the service file has an Exec= line");
        let mut words = line.split_whitespace().filter(|word| *word != "--no-debug");
        let mut command = self.host.command(words.next().expect("a program"));
        let mut process = Process::start("polkitd", command.args(words));
        let owned = wait::until("polkitd to start", || match self.host.name_is_owned(NAME) {
            true => Some(true),
            false => process.exit_status().map(|_| false),
        });
        assert!(owned, "polkitd is not running:\n{}", process.log().all().join("\n"));
        self.process = Some(process);
    }

    /// The process that [`Self::start`] started.
    ///
    /// # Panics
    /// If it was not started.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("polkitd was started")
    }

    /// Kills polkitd, even if the bus has started it. If it can be activated, the next call starts it again.
    ///
    /// # Panics
    /// If it does not exit.
    pub fn stop(&mut self) {
        self.host.sh(&format!("kill -KILL {}", self.pid()));
        wait::until_true("polkitd to exit", || !self.host.name_is_owned(NAME));
        self.process = None;
    }

    /// The process ID of the running polkitd in the host's PID namespace.
    ///
    /// # Panics
    /// If polkitd is not running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let name = format!("'{NAME}'");
        let reply =
            self.host.call(User::Root, "org.freedesktop.DBus", "GetConnectionUnixProcessID", &[&name]);
        let reply = reply.expect("polkitd is running");
        let digits = reply.trim_start_matches("(uint32 ").trim_end_matches(",)");
        digits.parse().unwrap_or_else(|_| panic!("not a process ID: {reply}"))
    }
}
