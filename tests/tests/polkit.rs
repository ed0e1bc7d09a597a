//! Authorisation by polkit, with a real polkitd, real users, and an authentication agent.

use std::process::Command;

use nix::sys::signal::Signal;
use wakevirt_protocol::bus::{ACTOR_INTERFACE, ACTOR_NAME, ACTOR_PATH};
use wakevirt_tests::bus::polkitd::{NAME, Polkitd};
use wakevirt_tests::bus::{Bus, CallError, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User, project, succeed};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";
const OTHER_MAC: &str = "52:54:00:01:02:04";
const NOT_AUTHORIZED: &str = "org.wakevirt.Error.NotAuthorized";
const LIMIT_EXCEEDED: &str = "org.wakevirt.Error.LimitExceeded";
const CALLS: [(&str, &[&str]); 3] =
    [("Wake", &["'52:54:00:01:02:03'"]), ("WakeDomain", &["'vm1'"]), ("Reload", &[])];
/// The administrator's password.
const PASSWORD: &str = "correct horse";

/// A host with a system bus, libvirt with two domains that are shut off, and the actor.
struct Scene<'host> {
    host: &'host Host,
    polkitd: Polkitd<'host>,
    libvirtd: Libvirtd<'host>,
    actor: Daemon,
    _bus: Bus<'host>,
}

impl<'host> Scene<'host> {
    /// Starts everything except polkit, which is only installed.
    fn new(host: &'host Host, bus: Kind, polkitd: Polkitd<'host>) -> Self {
        let bus = Bus::start(host, bus);
        let libvirtd = Libvirtd::start(host);
        libvirtd.define(TEST, &test_domain("vm1", MAC));
        libvirtd.define(TEST, &test_domain("vm2", OTHER_MAC));
        let config = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"*\"\n");
        let actor = Daemon::actor(host).config(&config).start_connected();
        Self { host, polkitd, libvirtd, actor, _bus: bus }
    }

    /// Starts everything, with the shipped actions and rules.
    fn running(host: &'host Host, bus: Kind) -> Self {
        let mut scene = Self::new(host, bus, installed(host));
        scene.polkitd.start();
        scene
    }

    fn call(&self, user: User, method: &str, arguments: &[&str]) -> Result<String, CallError> {
        self.host.call(user, ACTOR_INTERFACE, method, arguments)
    }

    /// Wakes the first domain. polkit cannot ask for a password.
    fn wake(&self, user: User) -> Result<String, CallError> {
        self.call(user, "Wake", &[&format!("'{MAC}'")])
    }

    /// A command that calls `WakeDomain` as an unprivileged user, with an authentication agent that gives this answer.
    fn call_with_agent(&self, answer: &str, options: &[&str]) -> Command {
        let mut command = self.polkitd.command_with_agent(User::Unprivileged, answer, "busctl");
        command.args(["--system", "--timeout=60"]).args(options);
        command.args(["call", ACTOR_NAME, ACTOR_PATH, ACTOR_INTERFACE, "WakeDomain", "s", "vm1"]);
        command
    }

    fn state(&self) -> String {
        self.libvirtd.state(TEST, "vm1")
    }
}

/// polkit with wakevirt's actions and rules.
fn installed(host: &Host) -> Polkitd<'_> {
    let polkitd = Polkitd::install(host);
    polkitd.add_actions(&project().join("dbus/org.wakevirt.policy"));
    polkitd.add_rules(&project().join("dbus/org.wakevirt.rules"));
    polkitd
}

/// polkit as in [`installed`], but it asks for root's password.
fn with_administrator(host: &Host) -> Polkitd<'_> {
    let polkitd = installed(host);
    polkitd.write_rules("10-test.rules", "polkit.addAdminRule(function() { return ['unix-user:root']; });");
    host.sh(&format!("echo 'root:{PASSWORD}' | chpasswd"));
    polkitd
}

fn assert_denied(reply: Result<String, CallError>, part: &str) {
    let is_denied = |error: &CallError| error.name == NOT_AUTHORIZED && error.message.contains(part);
    assert!(reply.as_ref().is_err_and(is_denied), "not denied with {part:?}: {reply:?}");
}

#[test]
fn polkitd_runs_on_a_test_host_and_can_be_activated() {
    privileged!();
    for bus in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let mut polkitd = Polkitd::install(&host);
        let _bus = Bus::start(&host, bus);
        polkitd.start();
        let action = "org.freedesktop.policykit.exec";
        // The shell is the subject, because pkcheck(1) needs a process that is still running.
        let check = format!("pkcheck --action-id {action} --process $$");
        for (user, allowed) in [(User::Root, true), (User::LibvirtMember, false)] {
            let output = host.command_as(user, "sh").args(["-c", &check]).output().unwrap();
            assert_eq!(output.status.success(), allowed, "{bus:?}: {user:?}: {output:?}");
        }
        let status = host.read(&format!("/proc/{}/status", polkitd.pid()));
        assert!(!status.contains("Uid:\t0"), "{bus:?}: {status}");
        polkitd.stop();
        if bus == Kind::DbusDaemon {
            let listed = succeed(host.command("pkaction").args(["--action-id", action]));
            assert_eq!(listed.trim(), action);
            assert!(host.name_is_owned(NAME));
            polkitd.stop();
        }
    }
}

#[test]
fn shipped_rule_allows_the_group_to_wake_and_root_to_do_everything() {
    privileged!();
    for bus in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let scene = Scene::running(&host, bus);
        for user in [
            User::Unprivileged,
            User::WakevirtMember,
            User::Capture,
            User::Actor,
            User::LibvirtMember,
            User::Root,
        ] {
            for (method, arguments) in CALLS {
                let reply = scene.call(user, method, arguments);
                if user == User::Root || (user == User::LibvirtMember && method != "Reload") {
                    let reply =
                        reply.unwrap_or_else(|error| panic!("{bus:?}: {user:?}: {method}: {error:?}"));
                    assert!(method == "Reload" || scene.state() == "running", "{reply}");
                } else {
                    assert_denied(reply, "requires authentication");
                    assert!(user == User::LibvirtMember || scene.state() == "shut off", "{bus:?}: {user:?}");
                }
            }
        }
        let log = scene.actor.log();
        // After the last log line has arrived, count the lines with the callers and the reasons.
        let _ = log.wait_for("configuration reloaded");
        assert_eq!(log.count("(allowed by polkit)"), 2, "{:#?}", log.all());
        assert_eq!(log.count("called by root"), 2, "{:#?}", log.all());
        assert_eq!(log.count("root requests a reload"), 1, "{:#?}", log.all());
        assert_eq!(log.count("denied a call"), 0, "{:#?}", log.all());
    }
}

#[test]
fn a_call_starts_polkit() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, Kind::DbusDaemon, installed(&host));
    assert!(!host.name_is_owned(NAME));
    assert_denied(scene.wake(User::Unprivileged), "requires authentication");
    assert!(host.name_is_owned(NAME));
    scene.polkitd.stop();
    assert_eq!(scene.wake(User::LibvirtMember).unwrap(), "('started',)");
    assert!(host.name_is_owned(NAME));
    let _ = scene.actor.log().wait_for("(allowed by polkit)");
}

#[test]
fn denies_calls_if_polkit_cannot_start() {
    privileged!();
    // dbus-broker cannot start polkit without systemd. dbus-daemon starts a program that fails.
    for bus in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let polkitd = installed(&host);
        host.sh("sed -i 's,^Exec=.*,Exec=/bin/false,' /run/bus/services/org.freedesktop.PolicyKit1.service");
        let scene = Scene::new(&host, bus, polkitd);
        assert_denied(scene.wake(User::LibvirtMember), "polkit");
        assert_denied(scene.call(User::Unprivileged, "Reload", &[]), "check that polkitd is running");
        assert_eq!(scene.state(), "shut off");
        assert_eq!(scene.wake(User::Root).unwrap(), "('started',)");
    }
}

#[test]
fn falls_back_to_the_group_if_polkit_is_removed() {
    privileged!();
    for bus in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let mut scene = Scene::new(&host, bus, installed(&host).without_activation());
        scene.polkitd.start();
        assert_eq!(scene.wake(User::LibvirtMember).unwrap(), "('started',)");
        scene.polkitd.stop();
        assert_eq!(scene.wake(User::LibvirtMember).unwrap(), "('already-running',)");
        assert_denied(scene.wake(User::Unprivileged), "only root and members of the libvirt group");
        assert_denied(scene.call(User::LibvirtMember, "Reload", &[]), "only root");
        let log = scene.actor.log();
        let _ = log.wait_for("(member of the libvirt group)");
        assert_eq!(
            (log.count("(allowed by polkit)"), log.count("(member of the libvirt group)")),
            (1, 1),
            "{:#?}",
            log.all()
        );
    }
}

#[test]
fn a_hung_polkit_delays_only_calls_that_wait_for_it() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let scene = Scene::running(&host, Kind::DbusDaemon);
    let _capture = Daemon::capture(&host).start_on_bus();
    let _ = scene.actor.log().wait_for("receiving packets from the announcer");
    scene.polkitd.process().signal(Signal::SIGSTOP);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20).map(|_| scope.spawn(|| scene.wake(User::LibvirtMember))).collect();
        // One user can have 16 open calls.
        let first = wait::until("a call over the limit", || calls.iter().position(|call| call.is_finished()));
        lan.etherwake(OTHER_MAC, &[]);
        scene.libvirtd.wait_for_state(TEST, "vm2", "running");
        assert_eq!(scene.wake(User::Root).unwrap(), "('started',)");
        assert!(calls.iter().any(|call| !call.is_finished()), "no call waits for polkit");
        let mut calls: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        assert_eq!(calls.remove(first).unwrap_err().name, LIMIT_EXCEEDED);
        let (limited, unanswered): (Vec<_>, Vec<_>) = calls
            .into_iter()
            .partition(|reply| reply.as_ref().is_err_and(|error| error.name == LIMIT_EXCEEDED));
        // A call that arrives after the first replies is within the limit again.
        assert!(unanswered.len() >= 16, "{unanswered:?}, over the limit: {limited:?}");
        unanswered.into_iter().for_each(|reply| assert_denied(reply, "polkit does not respond"));
    });
    scene.polkitd.process().signal(Signal::SIGCONT);
    assert_eq!(scene.wake(User::LibvirtMember).unwrap(), "('already-running',)");
}

#[test]
fn denies_calls_if_polkit_exits_or_lacks_the_action() {
    privileged!();
    let host = Host::new();
    // This polkit does not have wakevirt's actions.
    let mut scene = Scene::new(&host, Kind::DbusDaemon, Polkitd::install(&host));
    scene.polkitd.start();
    assert_denied(scene.wake(User::LibvirtMember), "org.wakevirt.policy");
    let _ = scene.actor.log().wait_for("cannot query polkit");
    assert_eq!(scene.wake(User::Root).unwrap(), "('started',)");

    scene.polkitd.process().signal(Signal::SIGSTOP);
    let mut monitor = host.command("busctl");
    monitor.args(["--system", "monitor", "--match", "type='method_call',member='CheckAuthorization'"]);
    let monitor = Process::start("busctl", &mut monitor);
    let _ = monitor.log().wait_for("Monitoring");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| scene.wake(User::LibvirtMember));
        let _ = monitor.log().wait_for("CheckAuthorization");
        assert!(!call.is_finished());
        host.sh(&format!("kill -KILL {}", scene.polkitd.pid()));
        assert_denied(call.join().unwrap(), "cannot query polkit");
    });
}

#[test]
fn administrator_rules_can_match_the_domain() {
    privileged!();
    let host = Host::new();
    let polkitd = installed(&host);
    polkitd.write_rules(
        "10-test.rules",
        r#"polkit.addRule(function(action, subject) {
            if (action.id == "org.wakevirt.wake" && subject.user == "wakevirt-test-unprivileged" &&
                (action.lookup("domain") == "vm1" || action.lookup("mac") == "52:54:00:01:02:04")) {
                return polkit.Result.YES;
            }
            if (action.id == "org.wakevirt.wake" && subject.isInGroup("libvirt")) {
                return polkit.Result.NO;
            }
        });"#,
    );
    let mut scene = Scene::new(&host, Kind::DbusDaemon, polkitd);
    scene.polkitd.start();
    let wake_domain = |user, name: &str| scene.call(user, "WakeDomain", &[&format!("'{name}'")]);
    assert_denied(wake_domain(User::Unprivileged, "vm2"), "requires authentication");
    assert_denied(scene.wake(User::Unprivileged), "requires authentication");
    assert_denied(wake_domain(User::LibvirtMember, "vm1"), "polkit does not allow this call");
    assert_eq!(wake_domain(User::Unprivileged, "vm1").unwrap(), "('started',)");
    let other = [&*format!("'{}'", OTHER_MAC.to_uppercase())];
    assert_eq!(scene.call(User::Unprivileged, "Wake", &other).unwrap(), "('started',)");
    // Invalid names do not reach polkit, because they could mislead the user in the dialog.
    for name in ["vm1\n", &"v".repeat(256)] {
        let error = wake_domain(User::Unprivileged, &name.replace('\n', "\\n")).unwrap_err();
        assert_eq!(error.name, "org.wakevirt.Error.InvalidArgument", "{error:?}");
    }
}

#[test]
fn asks_for_a_password_only_if_the_call_allows_interaction() {
    privileged!();
    for bus in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let mut scene = Scene::new(&host, bus, with_administrator(&host));
        scene.polkitd.start();
        let call = |answer, options: &[&str]| {
            let output = scene.call_with_agent(answer, options).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        // busctl(1) allows interaction unless this option is given.
        let (woken, output) = call(PASSWORD, &["--allow-interactive-authorization=no"]);
        assert!(!woken && output.contains("the call does not permit interaction"), "{bus:?}: {output}");
        assert!(!output.contains("AUTHENTICATING"), "{bus:?}: {output}");

        let (woken, output) = call("dismiss", &[]);
        assert!(!woken && output.contains("the authentication dialog was dismissed"), "{bus:?}: {output}");
        let opened =
            "opened for org.wakevirt.wake: Authentication is required to wake the virtual machine “vm1”.";
        assert!(output.contains(opened), "{bus:?}: {output}");

        let (woken, output) = call("wrong", &[]);
        assert!(!woken && output.contains("the authentication failed"), "{bus:?}: {output}");
        assert!(output.contains("AUTHENTICATING FOR org.wakevirt.wake"), "{bus:?}: {output}");
        assert_eq!(scene.state(), "shut off");

        let (woken, output) = call(PASSWORD, &[]);
        assert!(woken && output.contains("the virtual machine “vm1”"), "{bus:?}: {output}");
        assert_eq!(scene.state(), "running");
        let _ = scene.actor.log().wait_for("(allowed by polkit)");
    }
}

#[test]
fn waits_for_a_password_that_is_typed_slowly() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, Kind::DbusDaemon, with_administrator(&host));
    scene.polkitd.start();
    // The answer takes longer than the timeout of a call without interaction.
    let output = scene.call_with_agent(&format!("late:{PASSWORD}"), &[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.state(), "running");
}

#[test]
fn reports_that_no_authentication_agent_is_running() {
    privileged!();
    let host = Host::new();
    let scene = Scene::running(&host, Kind::DbusDaemon);
    let mut busctl = host.command_as(User::Unprivileged, "busctl");
    busctl.args(["--system", "call", ACTOR_NAME, ACTOR_PATH, ACTOR_INTERFACE, "Reload"]);
    let output = busctl.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("no authentication agent is running"), "{stderr}");
    assert_eq!(scene.actor.log().count("configuration reloaded"), 0);
}

#[test]
fn a_dialog_delays_nothing_and_closes_with_its_caller() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let mut scene = Scene::new(&host, Kind::DbusDaemon, with_administrator(&host));
    scene.polkitd.start();
    let _capture = Daemon::capture(&host).start_on_bus();
    let _ = scene.actor.log().wait_for("receiving packets from the announcer");
    let open = |scene: &Scene<'_>| {
        let call = Process::start("busctl", &mut scene.call_with_agent("leave", &[]));
        let _ = call.log().wait_for("opened for org.wakevirt.wake");
        call
    };
    let mut first = open(&scene);
    lan.etherwake(OTHER_MAC, &[]);
    scene.libvirtd.wait_for_state(TEST, "vm2", "running");
    assert_denied(scene.wake(User::Unprivileged), "requires authentication");
    assert_eq!(scene.wake(User::LibvirtMember).unwrap(), "('started',)");
    assert_eq!(scene.wake(User::Root).unwrap(), "('already-running',)");
    assert_eq!(first.log().count("closed"), 0);
    // The caller exits, and its agent keeps running.
    nix::sys::signal::kill(first.child("busctl"), Signal::SIGKILL).unwrap();
    let _ = first.log().wait_for("closed by polkit");
    first.kill();

    // The actor exits.
    let second = open(&scene);
    scene.actor.stop();
    let _ = second.log().wait_for("closed by polkit");
}
