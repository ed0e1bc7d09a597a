//! A user's own actor on the session bus: it has no special privileges, wakes the user's own domains, and receives
//! packets from the system's capture.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use wakevirt_protocol::bus::{ACTOR_INTERFACE, ACTOR_NAME, ACTOR_PATH, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::guard::PATH;
use wakevirt_tests::host::{Host, PROGRAMS, User, project, succeed};
use wakevirt_tests::libvirt::{SESSION_QEMU_CONF, session_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::process::proc;
use wakevirt_tests::{privileged, wait};

/// A user without special groups.
const USER: User = User::Unprivileged;
/// The user's `XDG_RUNTIME_DIR` and `HOME`.
const RUNTIME: &str = "/run/user/test";
const HOME: &str = "/run/home/test";
/// The user's configuration of wakevirt.
const CONFIG: &str = "/run/home/test/.config/wakevirt";
/// The address of the session bus.
const ADDRESS: &str = "unix:path=/run/user/test/bus";
const MAC: &str = "52:54:00:01:02:03";
/// The MAC address of the test driver's predefined domain, which is running.
const PREDEFINED_MAC: &str = "aa:bb:cc:dd:ee:ff";

/// The environment of a login session: directories and a session bus.
struct Session<'host> {
    host: &'host Host,
    _bus: Process,
}

impl<'host> Session<'host> {
    fn start(host: &'host Host) -> Self {
        let name = USER.name();
        host.sh(&format!(
            "mkdir -p /run/user /run/home; install -d -m 700 -o {name} -g {name} {RUNTIME} {HOME}"
        ));
        let mut bus = as_user(host, "dbus-daemon");
        bus.args(["--session", "--nofork", "--nopidfile", "--nosyslog", "--address", ADDRESS]);
        let bus = Process::start("the session bus", &mut bus);
        let socket = host.path(&format!("{RUNTIME}/bus"));
        wait::until_true("the session bus", || socket.exists());
        Self { host, _bus: bus }
    }

    /// Writes a file that the user owns.
    fn write(&self, path: &str, text: &str) {
        self.host.write(path, text);
        self.host.sh(&format!("chown -R {0}:{0} {HOME}", USER.name()));
    }

    /// Starts the user's actor as the user unit does, with a state directory.
    fn actor(&self, config: &str) -> Process {
        let directory = format!("{RUNTIME}/wakevirt-actor");
        self.write(&format!("{CONFIG}/actor.toml"), config);
        self.host.sh(&format!("install -d -o {0} -g {0} {directory}", USER.name()));
        let mut actor = as_user(self.host, &format!("{PROGRAMS}/wakevirt-actor"));
        actor.args([
            "--config-dir",
            CONFIG,
            "--log-to",
            "stderr",
            "--bus",
            ADDRESS,
            "--capture-bus",
            "system",
        ]);
        // Without this variable, libvirt starts a daemon unless the actor prevents it.
        actor.env_remove("LIBVIRT_AUTOSTART");
        let actor = Process::start("wakevirt-actor", actor.env("RUNTIME_DIRECTORY", directory));
        // Until then, the actor ignores packets.
        let _ = actor.log().wait_for("receiving packets from the announcer");
        actor
    }

    /// Subscribes to the decisions of the user's actor.
    fn monitor(&self) -> Process {
        let mut gdbus = as_user(self.host, "gdbus");
        let gdbus = gdbus.args(["monitor", "--address", ADDRESS, "--dest", ACTOR_NAME]);
        let monitor = Process::start("gdbus", gdbus);
        let _ = monitor.log().wait_for(&format!("The name {ACTOR_NAME} is owned"));
        monitor
    }

    /// Calls a method of the user's actor, with its arguments.
    fn call(&self, method: &str, arguments: &[&str]) -> String {
        let mut gdbus = as_user(self.host, "gdbus");
        gdbus.args(["call", "--address", ADDRESS, "--dest", ACTOR_NAME, "--object-path", ACTOR_PATH]);
        succeed(gdbus.args(["--method", &format!("{ACTOR_INTERFACE}.{method}")]).args(arguments))
    }

    /// Runs `wakevirtctl --bus session`. Returns its exit status, and what it printed.
    fn ctl(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut ctl = as_user(self.host, &format!("{PROGRAMS}/wakevirtctl"));
        ctl.env("DBUS_SESSION_BUS_ADDRESS", ADDRESS).args(["--bus", "session"]);
        let output = ctl.args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    fn virsh(&self, uri: &str, arguments: &[&str]) -> String {
        let mut virsh = as_user(self.host, "virsh");
        succeed(virsh.args(["-q", "-c", uri]).args(arguments)).trim().to_owned()
    }
}

/// A command that runs as the user, in the user's session.
fn as_user(host: &Host, program: &str) -> Command {
    let mut command = host.command_as(USER, program);
    command.env("XDG_RUNTIME_DIR", RUNTIME).env("HOME", HOME).env("USER", USER.name());
    command
}

/// Sets up the system: a network interface, the system bus, and capture.
fn system(host: &Host) -> (Peer<'_>, Bus<'_>, Daemon) {
    let lan = host.veth("lan0");
    let bus = Bus::start(host, Kind::DbusDaemon);
    let capture = Daemon::capture(host).start_on_bus();
    (lan, bus, capture)
}

/// A node for libvirt's test driver. It exists in the process that connects to it, and has one domain, which is shut
/// off.
const NODE: &str = "<node>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>own</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <devices><interface type='user'><mac address='52:54:00:01:02:03'/></interface></devices>
    <test:runstate>5</test:runstate>
  </domain>
</node>
";

#[test]
fn user_actor_receives_packets_from_system_capture() {
    privileged!();
    let host = Host::new();
    let (lan, _bus, _capture) = system(&host);
    let session = Session::start(&host);
    let (node, default) = (format!("{HOME}/node.xml"), "test:///default");
    session.write(&node, NODE);
    let mut actor = session.actor(&format!(
        "connections = [\"{default}\", \"test://{node}\"]\n[[allow]]\ndomain = \"*\"\ninterfaces = [\"lan0\"]\n"
    ));
    for uri in [default, &format!("test://{node}")] {
        let _ = actor.log().wait_for(&format!("connected to {uri}"));
    }
    let decisions = session.monitor();

    for method in ["Replay", "SetInterest"] {
        let _ = actor
            .log()
            .wait_for(&format!("call {method} on {CAPTURE_NAME}; add the user to the wakevirt group"));
    }
    lan.etherwake(PREDEFINED_MAC, &[]);
    let _ = decisions.log().wait_for(&format!("'{PREDEFINED_MAC}', 'test', 'already-running'"));
    lan.etherwake(MAC, &[]);
    let _ = decisions.log().wait_for(&format!("'{MAC}', 'own', 'started'"));
    // The actor queries the domain again after libvirt's events.
    wait::until_true("both domains to be listed as running", || {
        session.call("ListDomains", &[]).matches("'running'").count() == 2
    });

    // The actor is not on the system bus, and has no capability.
    assert!(!host.name_is_owned(ACTOR_NAME));
    let status = actor.status();
    assert_eq!(status.field("NoNewPrivs"), "1");
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(status.capabilities(set), 0, "{set}");
    }
    actor.stop();
}

#[test]
fn user_allows_and_forbids_own_domains() {
    privileged!();
    let host = Host::new();
    let (lan, _bus, _capture) = system(&host);
    let session = Session::start(&host);
    let node = format!("{HOME}/node.xml");
    session.write(&node, NODE);
    let mut actor = session.actor(&format!("connections = [\"test://{node}\"]\n"));
    let _ = actor.log().wait_for("connected to ");
    let decisions = session.monitor();
    lan.etherwake(MAC, &[]);
    let _ = decisions.log().wait_for(&format!("'{MAC}', 'own', 'not-allowed'"));
    // Capture is on the system bus.
    let (status, text) = session.ctl(&["status"]);
    assert!(status == Some(0) && text.contains("lan0"), "{status:?} {text}");
    assert!(text.contains("add a rule: wakevirtctl --bus session allow DOMAIN"), "{text}");

    let file = format!("{CONFIG}/actor.d/50-allow-own.toml");
    let written = format!("wrote {file}:\n  [[allow]]\n  domain = \"own\"\nit allows own\n");
    assert_eq!(session.ctl(&["allow", "own"]), (Some(0), written));
    let owner = succeed(host.command("stat").args(["--format=%U %a", &file]));
    assert_eq!(owner, format!("{} 644\n", USER.name()));
    // On the same interface, the packet would be a duplicate.
    host.sh(&format!("wakeonlan -i 127.0.0.1 {MAC}"));
    let _ = decisions.log().wait_for(&format!("'{MAC}', 'own', 'started'"));
    let (status, text) = session.ctl(&["allow", "own"]);
    assert!(status == Some(0) && text.starts_with(&format!("already allowed by {file}")), "{text}");
    assert_eq!(session.ctl(&["forbid", "own"]), (Some(0), format!("removed {file}\n")));
    assert!(!host.path(&file).exists());
    assert!(session.ctl(&["list"]).1.contains("\tno\t"));

    // The actor rejects the change, because it rejects another drop-in.
    session.write(&format!("{CONFIG}/actor.d/99-bad.toml"), "nonsense = true\n");
    let (status, text) = session.ctl(&["allow", "own"]);
    assert!(
        status == Some(1) && text.contains("nothing was changed") && text.contains("99-bad.toml"),
        "{text}"
    );
    assert!(!host.path(&file).exists());
    // The folder is not one that the user can write to.
    host.sh(&format!("rm {CONFIG}/actor.d/99-bad.toml; chown root {CONFIG}/actor.d"));
    let (status, text) = session.ctl(&["allow", "own"]);
    assert!(status == Some(1) && text.contains(&format!("cannot write {file}: Permission denied")), "{text}");
    // Nothing in the system's configuration has changed.
    assert!(!host.path("/etc/wakevirt/actor.d").exists());
    actor.stop();

    // Without the actor, the rule is written for its next start, with the directories that are missing.
    host.sh(&format!("rm -r {HOME}/.config"));
    let (status, text) = session.ctl(&["allow", "--force", "own"]);
    assert!(status == Some(0) && text.contains("takes effect when it starts"), "{text}");
    assert!(host.path(&file).exists());
}

#[test]
fn user_actor_wakes_a_user_domain() {
    privileged!();
    const URI: &str = "qemu:///session";
    let host = Host::new();
    let (lan, _bus, _capture) = system(&host);
    let session = Session::start(&host);
    let mut actor = session.actor(&format!("connections = [\"{URI}\"]\n[[allow]]\ndomain = \"vm1\"\n"));
    // No libvirt daemon is running, and the actor does not start one.
    let _ = actor.log().wait_for(&format!("no connection to {URI}"));
    assert_eq!(proc::children(actor.pid()), []);
    assert!(!host.path(&format!("{RUNTIME}/libvirt/libvirt-sock")).exists());

    session.write(&format!("{HOME}/.config/libvirt/qemu.conf"), SESSION_QEMU_CONF);
    session.write(&format!("{HOME}/vm1.xml"), &session_domain("vm1", MAC));
    let mut libvirtd = Process::start("libvirtd", &mut as_user(&host, "libvirtd"));
    let _ = actor.log().wait_for(&format!("connected to {URI}"));
    let decisions = session.monitor();
    session.virsh(URI, &["define", &format!("{HOME}/vm1.xml")]);
    wait::until_true("the actor to know the domain", || session.call("ListDomains", &[]).contains("'vm1'"));

    lan.etherwake(MAC, &[]);
    let _ = decisions.log().wait_for(&format!("'{MAC}', 'vm1', 'started'"));
    assert_eq!(session.virsh(URI, &["domstate", "vm1"]), "running");
    session.virsh(URI, &["destroy", "vm1"]);

    // On the session bus, the user who runs the actor can call it.
    assert_eq!(session.call("Wake", &[MAC]).trim(), "('started',)");
    assert_eq!(session.virsh(URI, &["domstate", "vm1"]), "running");
    assert_eq!(session.call("Reload", &[]).trim(), "()");
    session.virsh(URI, &["destroy", "vm1"]);
    actor.stop();
    libvirtd.stop();
}

/// Starts the script of the user unit for libvirt's daemon, with stubs for these daemons.
fn session_daemon(host: &Host, stubs: &[&str]) -> Process {
    for name in stubs {
        let stub = format!("{RUNTIME}/bin/{name}");
        host.write(&stub, "#!/bin/sh\necho \"this is ${0##*/}\"\n");
        host.sh(&format!("chmod 755 {stub}"));
    }
    // This is a copy, because the user might not be able to read the checkout.
    let script = format!("{RUNTIME}/session-libvirtd");
    host.write(&script, &std::fs::read_to_string(project().join("systemd/user/session-libvirtd")).unwrap());
    let mut command = as_user(host, "sh");
    Process::start("session-libvirtd", command.arg(script).env("PATH", format!("{RUNTIME}/bin:{PATH}")))
}

#[test]
fn user_unit_prefers_virtqemud() {
    privileged!();
    let host = Host::new();
    let _session = Session::start(&host);
    let _ = session_daemon(&host, &["libvirtd"]).log().wait_for("this is libvirtd");
    let _ = session_daemon(&host, &["virtqemud"]).log().wait_for("this is virtqemud");
}

/// A daemon in another runtime directory, which does not show the same virtual machines as running, is also a reason to
/// wait. Daemons of other users are not.
#[test]
fn user_unit_waits_for_other_daemons_of_the_user() {
    privileged!();
    let host = Host::new();
    let _session = Session::start(&host);
    host.sh("mkdir /run/daemons; cp /bin/sleep /run/daemons/libvirtd; cp /bin/sleep /run/daemons/virtqemud");
    let mut of_root = Process::start("of root", host.command("/run/daemons/libvirtd").arg("infinity"));
    let mut elsewhere = as_user(&host, "/run/daemons/libvirtd");
    let mut elsewhere = Process::start("elsewhere", elsewhere.arg("infinity").env_remove("XDG_RUNTIME_DIR"));
    wait::until_true("the daemon to run", || proc::program(elsewhere.pid()).as_deref() == Some("libvirtd"));
    let mut script = session_daemon(&host, &["virtqemud"]);
    let _ = script.log().wait_for("with a different runtime directory");
    let mut here = Process::start("here", as_user(&host, "/run/daemons/virtqemud").arg("infinity"));
    elsewhere.kill();
    let log = script.log().wait_for("virtqemud is already running");
    assert!(!log.contains("different"), "{log}");
    here.kill();
    let _ = script.log().wait_for("this is virtqemud");
    assert_eq!(script.wait_for_exit().code(), Some(0));
    of_root.kill();
}
