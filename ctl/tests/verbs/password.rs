//! `wakevirtctl wake` asks for an administrator's password, with a real polkitd and its agent for terminals.

use wakevirt_tests::bus::polkitd::Polkitd;
use wakevirt_tests::host::{Host, PROGRAMS, User, project};
use wakevirt_tests::libvirt::TEST;
use wakevirt_tests::privileged;

use crate::site::{Site, run};

/// The administrator's password.
const PASSWORD: &str = "correct horse";
/// The line that the agent prints before it asks.
const ASKED: &str = "AUTHENTICATING FOR org.wakevirt.wake";

/// Starts a site with polkit, which asks for root's password.
fn site(host: &Host) -> (Polkitd<'_>, Site<'_>) {
    let mut polkitd = Polkitd::install(host);
    polkitd.add_actions(&project().join("dbus/org.wakevirt.policy"));
    polkitd.add_rules(&project().join("dbus/org.wakevirt.rules"));
    polkitd.write_rules("10-test.rules", "polkit.addAdminRule(function() { return ['unix-user:root']; });");
    host.sh(&format!("echo 'root:{PASSWORD}' | chpasswd"));
    let site = Site::new(host);
    polkitd.start();
    (polkitd, site)
}

/// Runs a shell command as an unprivileged user on a terminal, where this answer is typed at a password prompt.
fn on_terminal(host: &Host, answer: &str, command: &str) -> String {
    let mut python = host.command_as(User::Unprivileged, "python3");
    python.args(["-I", "-c", include_str!("password.py"), answer, "sh", "-c", command]);
    let output = python.env("PATH", format!("{PROGRAMS}:/usr/bin:/bin")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wakes_a_domain_after_the_administrators_password() {
    privileged!();
    let host = Host::new();
    let (_polkitd, site) = site(&host);
    let screen = on_terminal(&host, PASSWORD, "exec wakevirtctl wake vm1");
    assert!(screen.contains(ASKED) && screen.contains("the virtual machine “vm1”"), "{screen}");
    assert!(
        screen.contains("vm1: started\n") && screen.contains("exited with status 0\necho is on"),
        "{screen}"
    );
    // The password is not shown, and the progress of the wake does not overwrite the prompt.
    assert!(!screen.contains(PASSWORD) && !screen.contains("waking"), "{screen}");
    assert_eq!(site.libvirtd.state(TEST, "vm1"), "running");
    let _ = site.actor.as_ref().unwrap().log().wait_for("(allowed by polkit)");
    // Standard output does not have to be a terminal.
    let screen = on_terminal(&host, PASSWORD, "wakevirtctl wake vm2 | tr a-z A-Z");
    assert!(screen.contains(ASKED) && screen.contains("VM2: STARTED\n"), "{screen}");
}

#[test]
fn denies_a_wake_after_a_wrong_password() {
    privileged!();
    let host = Host::new();
    let (_polkitd, site) = site(&host);
    let screen = on_terminal(&host, "wrong", "exec wakevirtctl wake vm1");
    assert!(screen.contains(ASKED) && screen.contains("wakevirtctl: "), "{screen}");
    assert!(screen.contains("the authentication failed"), "{screen}");
    assert!(screen.ends_with("exited with status 4\necho is on\n"), "{screen}");
    assert_eq!(site.libvirtd.state(TEST, "vm1"), "shut off");
}

#[test]
fn asks_only_on_a_terminal_and_with_permission_to_ask() {
    privileged!();
    let host = Host::new();
    let (_polkitd, site) = site(&host);
    for (command, reason) in [
        ("exec wakevirtctl wake --no-ask-password vm1", "the call does not permit interaction"),
        ("exec wakevirtctl wake vm1 </dev/null", "no authentication agent is running"),
        ("exec wakevirtctl wake vm1 2>&1 | cat; exit 4", "no authentication agent is running"),
    ] {
        let screen = on_terminal(&host, PASSWORD, command);
        assert!(!screen.contains("AUTHENTICATING") && screen.contains(reason), "{command}: {screen}");
        assert!(screen.ends_with("exited with status 4\necho is on\n"), "{command}: {screen}");
    }
    let printed = run(&host, User::Unprivileged, &["wake", "vm1"]);
    assert!(printed.status == 4 && printed.err.contains("no authentication agent is running"), "{printed:?}");
    assert_eq!(site.libvirtd.state(TEST, "vm1"), "shut off");
    // A caller who is allowed to wake domains is not asked.
    assert_eq!(run(&host, User::LibvirtMember, &["wake", "vm1"]).out, "vm1: started\n");
}

#[test]
fn an_interrupt_at_the_prompt_restores_the_terminal() {
    privileged!();
    let host = Host::new();
    let (_polkitd, site) = site(&host);
    let screen = on_terminal(&host, "interrupt", "exec wakevirtctl wake vm1");
    assert!(screen.contains(ASKED) && screen.ends_with("echo is on\n"), "{screen}");
    assert!(screen.contains("if the password is still missing, the domain is not woken"), "{screen}");
    assert!(screen.contains("exited with status 5\n"), "{screen}");
    assert_eq!(site.libvirtd.state(TEST, "vm1"), "shut off");
}

#[test]
fn is_silent_about_a_missing_polkit() {
    privileged!();
    let host = Host::new();
    let _site = Site::new(&host);
    let screen = on_terminal(&host, PASSWORD, "exec wakevirtctl wake vm1");
    assert!(!screen.contains("polkit") && screen.starts_with("wakevirtctl: "), "{screen}");
    assert!(screen.contains("only root and members of the libvirt group"), "{screen}");
    assert!(screen.ends_with("exited with status 4\necho is on\n"), "{screen}");
}
