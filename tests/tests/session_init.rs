//! A user's own virtual machines with init systems other than systemd: at boot, without a login, and for a user who is
//! only a member of the `kvm` group.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic and print")]

use std::process::Command;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use wakevirt_tests::host::{Host, project, succeed};
use wakevirt_tests::init::{Init, System};
use wakevirt_tests::libvirt::session_domain;
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::{privileged, wait};

const USER: &str = "alice";
const RUNTIME: &str = "/run/wakevirt-session/alice";
/// A domain that a packet wakes, one that the actor's `autostart` starts, and one with libvirt's own autostart flag.
const WOKEN: &str = "woken";
const STARTED: &str = "started";
const FLAGGED: &str = "flagged";
const MAC: &str = "52:54:00:12:34:56";
const QEMU: &str = "qemu-system-x86_64";
/// The message of the actor when it knows the domains.
const CONNECTED: &str = "connected to qemu:///session: 3 domains";

/// Creates the user, their domains and their configuration. `$1` is the user.
const PREPARE: &str = r#"
useradd --create-home --user-group --groups kvm --shell /bin/sh "$1"
home=/home/$1
mkdir -p "$home/.config/libvirt/qemu/autostart" "$home/.config/wakevirt"
cp /root/domains/*.xml "$home/.config/libvirt/qemu/"
ln -s ../flagged.xml "$home/.config/libvirt/qemu/autostart/flagged.xml"
printf 'security_driver = "none"\nseccomp_sandbox = 0\n' >"$home/.config/libvirt/qemu.conf"
printf 'autostart = ["started"]\n[[allow]]\ndomain = "woken"\n' >"$home/.config/wakevirt/actor.toml"
chown -R "$1:$1" "$home"
"#;

/// The user's libvirt daemon: its program, and its socket.
type LibvirtDaemon = (&'static str, &'static str);
const LIBVIRTD: LibvirtDaemon = ("libvirtd", "libvirt-sock");
const VIRTQEMUD: LibvirtDaemon = ("virtqemud", "virtqemud-sock");

/// Replaces libvirtd with the modular daemons in the directory `$1`. `$2` is the root directory of the system.
const REPLACE: &str = r#"rm -f "$2/usr/sbin/libvirtd"; cp -r "$1"/. "$2""#;

/// The commands of docs/SESSION.md that enable the services of a user.
const fn enable(init: Init) -> &'static str {
    match init {
        Init::OpenRc => {
            "for service in bus libvirt actor; do
                 ln -s wakevirt-session /etc/init.d/wakevirt-session.alice.$service
                 rc-update add wakevirt-session.alice.$service default
             done"
        }
        Init::Runit => {
            "for service in bus libvirt actor; do
                 cp -r /etc/sv/wakevirt-session /etc/sv/wakevirt-session.alice.$service
                 ln -s /etc/sv/wakevirt-session.alice.$service /etc/runit/runsvdir/default/
             done"
        }
        Init::S6 => {
            "mkdir -p /etc/s6/service
             for service in bus libvirt actor; do
                 cp -r /etc/s6/sv/wakevirt-session /etc/s6/service/wakevirt-session.alice.$service
             done"
        }
        Init::Shepherd => {
            r#"cat >>/etc/shepherd.scm <<'END'
(load "/usr/share/wakevirt/wakevirt-session.scm")
(register-services (make-wakevirt-session "alice"))
(start-in-the-background
 '(wakevirt-session.alice.bus wakevirt-session.alice.libvirt wakevirt-session.alice.actor))
END"#
        }
    }
}

/// The command that restarts or stops a service of the user.
fn control(init: Init, verb: &str, part: &str) -> String {
    let name = format!("wakevirt-session.{USER}.{part}");
    match init {
        Init::OpenRc => format!("rc-service {name} {verb}"),
        Init::Runit => format!("sv -w 40 {verb} {name}"),
        Init::S6 if verb == "stop" => format!("s6-svc -wd -d /etc/s6/service/{name}"),
        Init::S6 => format!("s6-svc -wr -r /etc/s6/service/{name}"),
        Init::Shepherd => format!("herd {verb} {name}"),
    }
}

/// The log of a service.
fn log(init: Init, part: &str) -> String {
    match init {
        Init::OpenRc | Init::Shepherd => format!("/var/log/wakevirt-session.{USER}.{part}.log"),
        Init::Runit | Init::S6 => format!("/var/log/wakevirt-session.{USER}.{part}/current"),
    }
}

/// A system with the user and their services.
struct Site<'host> {
    system: System<'host>,
    lan: Peer<'host>,
    libvirt: LibvirtDaemon,
}

impl<'host> Site<'host> {
    /// Prepares the system without booting it.
    fn new(host: &'host Host, init: Init, libvirt: LibvirtDaemon) -> Self {
        let system = System::new(host, init);
        system.install();
        for (number, name) in (1..).zip([WOKEN, STARTED, FLAGGED]) {
            let mac = if name == WOKEN { MAC.to_owned() } else { format!("52:54:00:00:00:0{number}") };
            // Without a UUID, libvirt would create a new one whenever it reads the file.
            let uuid = format!("</name><uuid>00000000-0000-0000-0000-00000000000{number}</uuid>");
            let domain = session_domain(name, &mac).replace("</name>", &uuid);
            system.write(&format!("/root/domains/{name}.xml"), &domain);
        }
        if libvirt == VIRTQEMUD {
            let daemons = succeed(&mut Command::new(project().join("scripts/modular-libvirt")));
            let root = system.path("/");
            let arguments = ["-euc", REPLACE, "replace", daemons.trim(), &root.to_string_lossy()];
            succeed(Command::new("sh").args(arguments));
        }
        succeed(system.chroot("sh").args(["-euc", PREPARE, "prepare", USER]));
        succeed(system.chroot("sh").args(["-euc", enable(init)]));
        Self { system, lan: host.veth("port0"), libvirt }
    }

    /// Prints the versions of what is tried, for scripts/check-anywhere.
    fn print_versions(&self) {
        let package = self.system.init().name();
        let format = "tried: ${Package} ${source:Upstream-Version}\\n";
        let packages = [package, "libvirt0", "qemu-system-x86"];
        let mut query = self.system.chroot("dpkg-query");
        let versions = succeed(query.args(["--show", "--showformat", format]).args(packages));
        // The name of the test is on the same line as its first output.
        print!("\n{}", versions.replace("libvirt0", "libvirt").replace("qemu-system-x86", "QEMU"));
    }

    /// Starts the system's bus and capture. The user's services are already running, or start at the same time.
    fn start_capture(&self) -> Process {
        self.system.sh("mkdir -p /run/dbus; dbus-daemon --system --fork");
        let mut capture = self.system.command("/usr/bin/wakevirt-capture");
        let capture = Process::start("capture", capture.args(["--log-to", "stderr"]));
        let _ = capture.log().wait_for("org.wakevirt.Capture1");
        capture
    }

    /// The socket of the user's libvirt daemon.
    fn socket(&self) -> String {
        format!("{RUNTIME}/libvirt/{}", self.libvirt.1)
    }

    /// Runs virsh(1) as the user without a login session, as docs/SESSION.md describes.
    fn virsh(&self, command: &str) -> String {
        let mut virsh = self.system.command_as(USER, "virsh");
        let uri = format!("qemu:///session?socket={}", self.socket());
        succeed(virsh.args(["--quiet", "--connect", &uri]).args(command.split(' '))).trim().to_owned()
    }

    /// The running domains, as virsh(1) prints them with the other ways to find the daemon that docs/SESSION.md describes:
    /// the runtime directory, and the default URI.
    fn running_by_default(&self) -> [String; 2] {
        let uri = format!("uri_default = \"qemu:///session?socket={}\"\n", self.socket());
        self.system.write("/home/alice/.config/libvirt/libvirt.conf", &uri);
        let list = |name, value, connection: &[&str]| {
            let mut virsh = self.system.command_as(USER, "virsh");
            virsh.env(name, value).arg("--quiet").args(connection).args(["list", "--name"]);
            succeed(&mut virsh).trim().to_owned()
        };
        let session = ["--connect", "qemu:///session"];
        [list("XDG_RUNTIME_DIR", RUNTIME, &session), list("HOME", "/home/alice", &[])]
    }

    fn state(&self, domain: &str) -> String {
        self.virsh(&format!("domstate {domain}"))
    }

    fn wait_until_running(&self, domain: &str) {
        self.system.wait_until("the user's libvirt daemon", &format!("test -S {}", self.socket()));
        wait::until_true(&format!("{domain} to run"), || self.state(domain) == "running");
    }

    /// Runs wakevirtctl(1) as the user, on the user's own bus.
    fn wakevirtctl(&self, command: &str) -> String {
        let mut ctl = self.system.command_as(USER, "wakevirtctl");
        let bus = format!("unix:path={RUNTIME}/wakevirt-bus");
        ctl.env("DBUS_SESSION_BUS_ADDRESS", bus).args(["--bus", "session"]);
        succeed(ctl.args(command.split(' ')))
    }

    /// Waits until the log of the user's actor contains this text this many times.
    fn wait_for_log(&self, text: &str, count: usize) {
        let file = log(self.system.init(), "actor");
        let seen = || self.system.read(&file).matches(text).count() >= count;
        wait::until_true(&format!("{count} times {text:?}"), seen);
    }

    /// Wakes the domain with a packet, for the `nth` time, when the actor has found capture for the time `found`.
    fn wake(&self, nth: usize, found: usize) {
        self.wait_for_log("receiving packets from the announcer", found);
        self.lan.etherwake(MAC, &["-b"]);
        self.wait_for_log(&format!("started: domain \"{WOKEN}\", packet"), nth);
    }

    /// Kills the user's process that runs this program, and waits until the init system has started it again.
    fn kill(&self, program: &str) {
        let of_user = || {
            let is_of_user = |pid: &Pid| Status::of(*pid).effective_uid() >= 1000;
            self.system.processes(program).into_iter().find(is_of_user)
        };
        let old = of_user().unwrap_or_else(|| panic!("{program} is not running"));
        signal::kill(old, Signal::SIGKILL).unwrap();
        wait::until_true(&format!("{program} to start again"), || of_user().is_some_and(|new| new != old));
    }

    /// Checks the users, groups and permissions of the user's services.
    fn check_processes(&self) {
        let uid: u32 = self.system.sh(&format!("id -u {USER}")).trim().parse().unwrap();
        for program in [self.libvirt.0, "wakevirt-actor"] {
            let status = Status::of(self.system.process(program));
            assert_eq!(
                (status.effective_uid(), status.field("Groups").split(' ').count()),
                (uid, 2),
                "{program}"
            );
            assert_eq!(status.capabilities("CapEff"), 0, "{program}");
        }
        let owners = self.system.sh(&format!("stat -c '%U %a' {RUNTIME} {RUNTIME}/wakevirt-actor"));
        assert_eq!(owners, "alice 700\nalice 700\n");
    }
}

/// Boots the system, and checks what a user without root's permissions expects of their virtual machines.
fn check(init: Init, libvirt: LibvirtDaemon) {
    let host = Host::new();
    let mut site = Site::new(&host, init, libvirt);
    site.print_versions();
    site.system.boot();
    site.wait_until_running(FLAGGED);
    site.wait_until_running(STARTED);
    assert_eq!(site.state(WOKEN), "shut off");
    let mut capture = site.start_capture();
    site.wait_for_log(CONNECTED, 1);
    site.wake(1, 1);
    assert_eq!(site.state(WOKEN), "running");
    site.check_processes();

    // Each service is restarted after it is killed. The virtual machines keep running, and are found.
    let guests = site.system.processes(QEMU);
    assert_eq!(guests.len(), 3);
    for (program, connections) in [("dbus-daemon", 1), (libvirt.0, 2), ("wakevirt-actor", 3)] {
        site.kill(program);
        site.wait_for_log(CONNECTED, connections);
    }
    assert_eq!(site.system.processes(QEMU), guests);
    for domain in [WOKEN, STARTED, FLAGGED] {
        assert_eq!(site.state(domain), "running");
    }
    site.wait_for_log("providing org.wakevirt.Actor1", 3);
    assert!(site.wakevirtctl("list --json").contains("\"state\":\"running\""));

    // A domain that was switched off stays off when its daemon and the actor are restarted.
    for domain in [WOKEN, STARTED, FLAGGED] {
        site.virsh(&format!("destroy {domain}"));
    }
    site.system.sh(&control(init, "restart", "libvirt"));
    site.wait_for_log(CONNECTED, 4);
    site.system.sh(&control(init, "restart", "actor"));
    site.wait_for_log(CONNECTED, 5);
    site.wake(2, 3);
    assert_eq!(site.virsh("list --name"), WOKEN);
    assert_eq!(site.running_by_default(), [WOKEN, WOKEN]);

    // The virtual machines survive when the services are stopped.
    for part in ["actor", "libvirt", "bus"] {
        site.system.sh(&control(init, "stop", part));
    }
    for program in [libvirt.0, "wakevirt-actor"] {
        // A daemon that is asked to exit can take 30 s to do so (virNetDaemonRun in libvirt's virnetdaemon.c).
        let gone = || site.system.processes(program).is_empty().then_some(());
        assert!(wait::within(3 * wait::TIMEOUT, gone).is_some(), "{program} is still running");
    }
    assert_eq!(site.system.processes(QEMU).len(), 1);

    // After a boot, they start again.
    capture.kill();
    site.system.reboot();
    site.wait_until_running(FLAGGED);
    site.wait_until_running(STARTED);
    assert_eq!(site.state(WOKEN), "shut off");
    site.system.shut_down();
}

#[test]
#[ignore = "make check-anywhere"]
fn openrc_with_libvirtd() {
    privileged!();
    check(Init::OpenRc, LIBVIRTD);
}

#[test]
#[ignore = "make check-anywhere"]
fn openrc_with_virtqemud() {
    privileged!();
    check(Init::OpenRc, VIRTQEMUD);
}

#[test]
#[ignore = "make check-anywhere"]
fn runit_with_libvirtd() {
    privileged!();
    check(Init::Runit, LIBVIRTD);
}

#[test]
#[ignore = "make check-anywhere"]
fn runit_with_virtqemud() {
    privileged!();
    check(Init::Runit, VIRTQEMUD);
}

#[test]
#[ignore = "make check-anywhere"]
fn s6_with_libvirtd() {
    privileged!();
    check(Init::S6, LIBVIRTD);
}

#[test]
#[ignore = "make check-anywhere"]
fn s6_with_virtqemud() {
    privileged!();
    check(Init::S6, VIRTQEMUD);
}

#[test]
#[ignore = "make check-anywhere"]
fn shepherd_with_libvirtd() {
    privileged!();
    check(Init::Shepherd, LIBVIRTD);
}

#[test]
#[ignore = "make check-anywhere"]
fn shepherd_with_virtqemud() {
    privileged!();
    check(Init::Shepherd, VIRTQEMUD);
}
