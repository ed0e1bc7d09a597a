//! A user with two libvirt daemons, each of which sees only its own VMs. The tests run the printed commands, start one
//! daemon again, and wake the user's domain, or see it running.

use std::process::Command;

use serde_json::Value;
use wakevirt_tests::host::{Host, PROGRAMS, User, succeed};
use wakevirt_tests::libvirt::{SESSION_QEMU_CONF, session_domain};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

use crate::fixture::{Fixture, HEALTHY};

/// The user's `XDG_RUNTIME_DIR` and `HOME`.
const RUNTIME: &str = "/run/user/test";
const HOME: &str = "/run/home/test";
/// The address of the session bus.
const ADDRESS: &str = "unix:path=/run/user/test/bus";
const URI: &str = "qemu:///session";
const MAC: &str = "52:54:00:01:02:03";

/// An ordinary user with a session bus.
struct Session<'host> {
    host: &'host Host,
    _bus: Process,
}

impl<'host> Session<'host> {
    fn start(host: &'host Host) -> Self {
        let name = User::Unprivileged.name();
        host.sh(&format!(
            "mkdir -p /run/user /run/home /run/copy; install -d -o {name} {RUNTIME} {HOME}
             cp {PROGRAMS}/wakevirtctl {PROGRAMS}/wakevirt-actor /run/copy/"
        ));
        host.write(&format!("{HOME}/.config/libvirt/qemu.conf"), SESSION_QEMU_CONF);
        host.write(&format!("{HOME}/own.xml"), &session_domain("own", MAC));
        host.write(
            &format!("{HOME}/actor.toml"),
            &format!("connections = [\"{URI}\"]\n[[allow]]\ndomain = \"own\"\n"),
        );
        host.sh(&format!("chown -R {name} {HOME}"));
        let mut bus = as_user(host, "dbus-daemon");
        let bus = bus.args(["--session", "--nofork", "--nopidfile", "--nosyslog", "--address", ADDRESS]);
        let bus = Process::start("the session bus", bus);
        wait::until_true("the session bus", || host.path(&format!("{RUNTIME}/bus")).exists());
        Self { host, _bus: bus }
    }

    /// A command that runs as the user, with the runtime directory of the session or without one.
    fn command(&self, in_session: bool, program: &str) -> Command {
        let mut command = as_user(self.host, program);
        if !in_session {
            command.env_remove("XDG_RUNTIME_DIR");
        }
        command
    }

    /// Starts a daemon, with the runtime directory of the session or without one, and waits until it replies.
    fn daemon(&self, in_session: bool) -> Process {
        let mut libvirtd = self.command(in_session, "libvirtd");
        let libvirtd = Process::start("libvirtd", libvirtd.args(["--timeout", "600"]));
        wait::until_true("libvirtd to reply", || {
            let mut virsh = self.command(in_session, "virsh");
            virsh.env("LIBVIRT_AUTOSTART", "0").args(["-q", "-c", URI, "list"]);
            virsh.output().is_ok_and(|output| output.status.success())
        });
        libvirtd
    }

    /// Starts the user's actor, and waits until it is connected to a daemon.
    fn actor(&self) -> Process {
        let mut actor = as_user(self.host, "/run/copy/wakevirt-actor");
        let config = format!("{HOME}/actor.toml");
        actor.args(["--config", &config, "--bus", ADDRESS, "--capture-bus", "system", "--log-to", "stderr"]);
        let actor = Process::start("wakevirt-actor", actor.env("RUNTIME_DIRECTORY", RUNTIME));
        let _ = actor.log().wait_for(&format!("connected to {URI}"));
        actor
    }

    fn diagnose(&self) -> Value {
        let mut doctor = as_user(self.host, "/run/copy/wakevirtctl");
        let doctor = doctor.args(["--bus", ADDRESS, "--json", "doctor"]).output().expect("wakevirtctl runs");
        serde_json::from_slice(&doctor.stdout).unwrap_or_else(|error| panic!("{error}: {doctor:?}"))
    }

    fn virsh(&self, arguments: &[&str]) -> String {
        let mut virsh = as_user(self.host, "virsh");
        succeed(virsh.args(["-q", "-c", URI]).args(arguments)).trim().to_owned()
    }

    /// Defines and starts the user's domain.
    fn start_domain(&self, in_session: bool) {
        let line = format!("define {HOME}/own.xml; start own");
        succeed(self.command(in_session, "virsh").args(["-q", "-c", URI, &line]));
    }

    /// The processes of the user's domain.
    fn guests(&self) -> String {
        self.host.sh("pgrep qemu-system || true")
    }
}

/// A command that runs as the user, in the user's session.
fn as_user(host: &Host, program: &str) -> Command {
    let mut command = host.command_as(User::Unprivileged, program);
    command.env("XDG_RUNTIME_DIR", RUNTIME).env("HOME", HOME);
    command
}

/// Runs the command of a finding as the user.
fn run_fix(host: &Host, finding: &Value) {
    let command = finding["cure"].as_str().unwrap_or_else(|| panic!("no command: {finding:#}"));
    succeed(as_user(host, "sh").args(["-euc", command]));
}

/// Starts two daemons with `start`, and checks that doctor reports them and that its command stops both. Afterwards, a
/// packet wakes the user's domain through a new daemon.
fn assert_fixed(check: &str, evidence: &[&str], start: impl Fn(&Session<'_>) -> [Process; 2]) {
    let host = Host::new();
    let fixture = Fixture::new(&host, HEALTHY);
    let session = Session::start(&host);
    let daemons = start(&session);
    let actor = session.actor();
    let json = session.diagnose();
    let first = &json["findings"][0];
    assert_eq!(first["check"], check, "{json:#}");
    let lines = first["evidence"].as_array().expect("a list");
    for part in evidence {
        assert!(lines.iter().any(|line| line.as_str().is_some_and(|it| it.contains(part))), "{json:#}");
    }
    run_fix(&host, first);
    for mut daemon in daemons {
        let _ = daemon.wait_for_exit();
    }

    let _daemon = session.daemon(true);
    let _ = actor.log().wait_for_nth(&format!("connected to {URI}"), 2);
    session.virsh(&["define", &format!("{HOME}/own.xml")]);
    let woken = wait::within(wait::TIMEOUT, || {
        fixture.lan.etherwake(MAC, &["-b"]);
        let is_running = || (session.virsh(&["domstate", "own"]) == "running").then_some(());
        wait::within(std::time::Duration::from_millis(500), is_running)
    });
    assert!(woken.is_some(), "no packet wakes the domain:\n{}", actor.log().all().join("\n"));
    let json = session.diagnose();
    assert_ne!(json["findings"][0]["check"], check, "{json:#}");
}

/// One daemon has the runtime directory of a login session, and one does not.
#[test]
fn fixes_two_libvirt_daemons_in_two_runtime_directories() {
    privileged!();
    let directories = ["/run/user/test/libvirt", "/run/home/test/.cache/libvirt"];
    assert_fixed("two-runtime-directories", &directories, |session| {
        [session.daemon(true), session.daemon(false)]
    });
}

/// The runtime directory of the first daemon is removed at logout. After the next login, a second one starts there.
#[test]
fn fixes_two_libvirt_daemons_in_one_runtime_directory() {
    privileged!();
    assert_fixed("two-daemons", &["/run/user/test/libvirt"], |session| {
        let first = session.daemon(true);
        session.host.sh(&format!("rm -r {RUNTIME}/libvirt"));
        [first, session.daemon(true)]
    });
}

/// The domain was started by a program without a runtime directory, and programs of the session show it as shut off.
/// After the command, they show it as running. It keeps running meanwhile.
#[test]
fn shows_a_vm_that_was_started_without_a_session() {
    privileged!();
    let host = Host::new();
    let _fixture = Fixture::new(&host, HEALTHY);
    let session = Session::start(&host);
    let elsewhere = session.daemon(false);
    session.start_domain(false);
    let guest = session.guests();
    let here = session.daemon(true);
    assert_eq!(session.virsh(&["domstate", "own"]), "shut off");
    let _actor = session.actor();
    let json = session.diagnose();
    let first = &json["findings"][0];
    assert_eq!(first["check"], "two-runtime-directories", "{json:#}");
    assert!(first["evidence"].to_string().contains("VM own"), "{json:#}");
    run_fix(&host, first);
    for mut daemon in [elsewhere, here] {
        let _ = daemon.wait_for_exit();
    }

    let _daemon = session.daemon(true);
    assert_eq!(session.virsh(&["domstate", "own"]), "running");
    assert_eq!(session.guests(), guest);
    let json = session.diagnose();
    assert!(!json.to_string().contains("two-runtime-directories"), "{json:#}");
    session.virsh(&["destroy", "own"]);
    assert_eq!(session.guests(), "");
}

/// The runtime directory of the domain's daemon was removed at logout, so that no daemon can find the domain.
#[test]
fn ends_a_vm_whose_runtime_directory_was_removed() {
    privileged!();
    let host = Host::new();
    let _fixture = Fixture::new(&host, HEALTHY);
    let session = Session::start(&host);
    let first = session.daemon(true);
    session.start_domain(true);
    host.sh(&format!("rm -r {RUNTIME}/libvirt"));
    let second = session.daemon(true);
    assert_eq!(session.virsh(&["domstate", "own"]), "shut off");
    assert_eq!(session.guests().lines().count(), 1);
    let _actor = session.actor();
    let fix = |check: &str| {
        let json = session.diagnose();
        let first = &json["findings"][0];
        assert_eq!(first["check"], check, "{json:#}");
        run_fix(&host, first);
    };
    fix("two-daemons");
    for mut daemon in [first, second] {
        let _ = daemon.wait_for_exit();
    }
    fix("lost-vm");
    wait::until_true("QEMU to exit", || session.guests().is_empty());
    assert!(!session.diagnose().to_string().contains("lost-vm"));
}
