//! polkit where systemd starts it and knows who sits at the machine.
#![expect(clippy::expect_used, reason = "a test may stop where it stands")]

use std::path::Path;
use std::process::{Command, Output};

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project, succeed};
use wakevirt_tests::libvirt::qemu_domain;
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:12:34:56";
const WAKE: &str =
    "busctl --quiet call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 WakeDomain s vm1";
/// Who is not at the machine, but in group libvirt.
const MEMBER: &str = "member";
/// Who sits at the machine, and is in no group that matters.
const LOCAL: &str = "local";
/// An administrator's rule, which takes the password away where somebody sits at the machine.
const RULE: &str = r#"polkit.addRule(function(action, subject) {
    if (action.id == "org.wakevirt.wake" && subject.local && subject.active) {
        return polkit.Result.YES;
    }
});
"#;

/// A Debian on which wakevirt is installed as this build has it, with a domain that is off.
fn site(host: &Host, bus: Kind) -> Debian<'_> {
    host.bridge("br0");
    let mut debian = Debian::new(host, bus);
    // target/PROFILE/deps/this
    let own = std::env::current_exe().expect("a program knows its own file");
    let profile = own.ancestors().nth(2).expect("the build's folder");
    let mut install = Command::new(project().join("scripts/install"));
    install.arg("install").env("DESTDIR", debian.path("")).env("PREFIX", "/usr");
    install.env("CARGO_TARGET_DIR", profile.parent().unwrap_or(Path::new("/")));
    succeed(install.env("PROFILE", profile.file_name().unwrap_or_default()));
    debian.boot();
    debian.sh(&format!(
        "systemd-sysusers
         busctl --quiet call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
         useradd --user-group --groups libvirt {MEMBER}
         useradd --user-group {LOCAL}
         systemctl start wakevirt-actor"
    ));
    debian.write("/root/vm1.xml", &qemu_domain("vm1", MAC, "br0"));
    debian.sh("virsh --quiet --connect qemu:///system define /root/vm1.xml");
    wait::until_true("the actor to know the domain", || {
        debian.sh("busctl get-property org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Domains")
            == "u 1\n"
    });
    debian
}

/// Runs a script as the user who sits at the machine: in a session on its seat, by pam_systemd(8).
fn at_the_seat(debian: &Debian<'_>, script: &str) -> Output {
    // systemd has its own meaning for what a shell understands.
    debian.write("/usr/local/share/script", script);
    let mut run = debian.command("systemd-run");
    run.args(["--quiet", "--wait", "--pipe", "--collect", "--property=PAMName=login"]);
    run.args(["--property=Environment=XDG_SEAT=seat0 XDG_SESSION_CLASS=user XDG_SESSION_TYPE=tty"]);
    run.args([&format!("--uid={LOCAL}"), "sh", "-eu", "/usr/local/share/script"]);
    run.output().expect("systemd-run runs")
}

fn elsewhere(debian: &Debian<'_>, user: &str, script: &str) -> Output {
    debian.command_as(user, "sh").args(["-euc", script]).output().expect("sh runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// On this bus, systemd starts polkit when it is asked, and polkit asks logind where the caller is.
fn polkit_decides_by_the_callers_session(bus: Kind) {
    let host = Host::new();
    let debian = site(&host, bus);
    let state = || debian.sh("virsh --quiet --connect qemu:///system domstate vm1").trim().to_owned();
    let is_polkit_active = || debian.command("systemctl").args(["--quiet", "is-active", "polkit"]).status();

    debian.sh("systemctl stop polkit");
    assert!(!is_polkit_active().expect("systemctl runs").success());
    let output = elsewhere(&debian, LOCAL, WAKE);
    assert!(!output.status.success() && said(&output).contains("asks for authentication"), "{output:?}");
    assert!(is_polkit_active().expect("systemctl runs").success());

    // Who sits there is spared the next password, others are not: what polkit makes of the actions.
    for action in ["org.wakevirt.wake", "org.wakevirt.reload"] {
        let check = format!(
            "loginctl show-session --property=Active self; pkcheck --action-id {action} --process $$"
        );
        let keeps = "retains_authorization_after_challenge";
        let output = at_the_seat(&debian, &check);
        assert!(said(&output).contains("Active=yes") && said(&output).contains(keeps), "{output:?}");
        assert_eq!(output.status.code(), Some(2), "a password is asked for: pkcheck(1), {output:?}");
        let output = elsewhere(&debian, LOCAL, &format!("pkcheck --action-id {action} --process $$"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!said(&output).contains(keeps), "{output:?}");
    }
    let output = at_the_seat(&debian, WAKE);
    assert!(!output.status.success() && said(&output).contains("asks for authentication"), "{output:?}");
    assert_eq!(state(), "shut off");

    // That the actor's question is about the session is seen by a rule that looks at it.
    debian.write("/etc/polkit-1/rules.d/10-local.rules", RULE);
    debian.sh("systemctl restart polkit");
    let output = elsewhere(&debian, LOCAL, WAKE);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(state(), "shut off");
    let output = at_the_seat(&debian, WAKE);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state(), "running");

    debian.sh("virsh --quiet --connect qemu:///system destroy vm1; systemctl stop polkit");
    let output = elsewhere(&debian, MEMBER, WAKE);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state(), "running");

    // Where its unit must not start, polkit is still what is to decide.
    debian.sh("virsh --quiet --connect qemu:///system destroy vm1; systemctl mask --now polkit");
    let output = elsewhere(&debian, MEMBER, WAKE);
    assert!(!output.status.success() && said(&output).contains("polkit cannot be asked"), "{output:?}");
    assert_eq!(state(), "shut off");
    debian.sh(WAKE);
    assert_eq!(state(), "running");
    let journal = debian.journal("wakevirt-actor");
    for part in ["(allowed by polkit): it was shut off", "called by root: it was shut off"] {
        assert!(journal.contains(part), "{journal}");
    }
}

#[test]
fn polkit_decides_by_the_callers_session_with_dbus_daemon() {
    privileged!();
    polkit_decides_by_the_callers_session(Kind::DbusDaemon);
}

#[test]
fn polkit_decides_by_the_callers_session_with_dbus_broker() {
    privileged!();
    polkit_decides_by_the_callers_session(Kind::DbusBroker);
}
