//! polkit on a booted Debian system: systemd starts it, and logind knows which sessions are local.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::process::Output;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain;
use wakevirt_tests::privileged;

const MAC: &str = "52:54:00:12:34:56";
const WAKE: &str =
    "busctl --quiet call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 WakeDomain s vm1";
/// A member of the `libvirt` group, without a local session.
const MEMBER: &str = "member";
/// A user with a local session, who is not a member of a relevant group.
const LOCAL: &str = "local";
/// An administrator's rule: active local sessions need no password.
const RULE: &str = r#"polkit.addRule(function(action, subject) {
    if (action.id == "org.wakevirt.wake" && subject.local && subject.active) {
        return polkit.Result.YES;
    }
});
"#;

/// Boots a Debian system with the files of this build and a domain that is shut off.
fn site(host: &Host, bus: Kind) -> Debian<'_> {
    host.bridge("br0");
    let mut debian = Debian::new(host, bus);
    debian.install();
    debian.boot();
    debian.sh(&format!(
        "useradd --user-group --groups libvirt {MEMBER}
         useradd --user-group {LOCAL}
         systemctl start wakevirt-actor"
    ));
    debian.write("/root/vm1.xml", &qemu_domain("vm1", MAC, "br0"));
    debian.sh("virsh --quiet --connect qemu:///system define /root/vm1.xml");
    debian.wait_until_domain_is_known();
    debian
}

/// Runs a script as [`LOCAL`] in a session on seat0: pam_systemd(8).
fn in_local_session(debian: &Debian<'_>, script: &str) -> Output {
    // The script is in a file, because systemd expands `$` and `%` in a command line.
    debian.write("/usr/local/share/script", script);
    let mut run = debian.command("systemd-run");
    run.args(["--quiet", "--wait", "--pipe", "--collect", "--property=PAMName=login"]);
    run.args(["--property=Environment=XDG_SEAT=seat0 XDG_SESSION_CLASS=user XDG_SESSION_TYPE=tty"]);
    run.args([&format!("--uid={LOCAL}"), "sh", "-eu", "/usr/local/share/script"]);
    run.output().expect("systemd-run runs")
}

/// Runs a script as this user outside a session.
fn without_session(debian: &Debian<'_>, user: &str, script: &str) -> Output {
    debian.command_as(user, "sh").args(["-euc", script]).output().expect("sh runs")
}

/// The text on standard output and standard error.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Checks that, on this bus, the actor's request starts polkit, and that polkit gets the caller's session from logind.
fn polkit_decides_based_on_the_callers_session(bus: Kind) {
    let host = Host::new();
    let debian = site(&host, bus);
    let state = || debian.sh("virsh --quiet --connect qemu:///system domstate vm1").trim().to_owned();
    let is_polkit_active = || debian.command("systemctl").args(["--quiet", "is-active", "polkit"]).status();

    debian.sh("systemctl stop polkit");
    assert!(!is_polkit_active().expect("systemctl runs").success());
    let output = without_session(&debian, LOCAL, WAKE);
    assert!(!output.status.success() && text(&output).contains("requires authentication"), "{output:?}");
    assert!(is_polkit_active().expect("systemctl runs").success());

    // polkit retains the authorisation of an active local session (`auth_admin_keep`), and of no other caller.
    for action in ["org.wakevirt.wake", "org.wakevirt.reload"] {
        let check = format!(
            "loginctl show-session --property=Active self; pkcheck --action-id {action} --process $$"
        );
        let retains = "retains_authorization_after_challenge";
        let output = in_local_session(&debian, &check);
        assert!(text(&output).contains("Active=yes") && text(&output).contains(retains), "{output:?}");
        assert_eq!(
            output.status.code(),
            Some(2),
            "polkit did not ask for a password (pkcheck(1)): {output:?}"
        );
        let output = without_session(&debian, LOCAL, &format!("pkcheck --action-id {action} --process $$"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!text(&output).contains(retains), "{output:?}");
    }
    let output = in_local_session(&debian, WAKE);
    assert!(!output.status.success() && text(&output).contains("requires authentication"), "{output:?}");
    assert_eq!(state(), "shut off");

    // A rule that depends on the session shows that the actor's request names the caller's session.
    debian.write("/etc/polkit-1/rules.d/10-local.rules", RULE);
    debian.sh("systemctl restart polkit");
    let output = without_session(&debian, LOCAL, WAKE);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(state(), "shut off");
    let output = in_local_session(&debian, WAKE);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state(), "running");

    debian.sh("virsh --quiet --connect qemu:///system destroy vm1; systemctl stop polkit");
    let output = without_session(&debian, MEMBER, WAKE);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state(), "running");

    // If polkit's unit is masked, the actor denies the call instead of falling back to the group.
    debian.sh("virsh --quiet --connect qemu:///system destroy vm1; systemctl mask --now polkit");
    let output = without_session(&debian, MEMBER, WAKE);
    assert!(!output.status.success() && text(&output).contains("cannot query polkit"), "{output:?}");
    assert_eq!(state(), "shut off");
    debian.sh(WAKE);
    assert_eq!(state(), "running");
    let journal = debian.journal("wakevirt-actor");
    for part in ["(allowed by polkit): it was shut off", "called by root: it was shut off"] {
        assert!(journal.contains(part), "{journal}");
    }
}

#[test]
fn polkit_decides_based_on_the_callers_session_with_dbus_daemon() {
    privileged!();
    polkit_decides_based_on_the_callers_session(Kind::DbusDaemon);
}

#[test]
fn polkit_decides_based_on_the_callers_session_with_dbus_broker() {
    privileged!();
    polkit_decides_based_on_the_callers_session(Kind::DbusBroker);
}
