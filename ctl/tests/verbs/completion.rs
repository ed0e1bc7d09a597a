//! Completion in bash, zsh and fish, with the scripts that are installed.

use std::process::Command;

use wakevirt_tests::host::{Host, PROGRAMS, User, project, succeed};
use wakevirt_tests::libvirt::{TEST, test_domain};
use wakevirt_tests::privileged;
use wakevirt_tests::wait;

use crate::site::Site;

const DIRECTORY: &str = "/run/completions";
const SPACE_MAC: &str = "52:54:00:01:02:0a";

/// Returns a shell on the host, which finds the program in its PATH.
fn shell(host: &Host, user: User, program: &str) -> Command {
    let mut shell = host.command_as(user, program);
    shell.env("PATH", format!("{PROGRAMS}:/usr/bin:/bin")).env("TERM", "dumb").env("HOME", "/run");
    shell
}

/// Copies the completion scripts to the host.
fn copy_scripts(host: &Host) {
    for name in ["wakevirtctl.bash", "_wakevirtctl", "wakevirtctl.fish"] {
        let script = std::fs::read_to_string(project().join("ctl/completions").join(name)).unwrap();
        host.write(&format!("{DIRECTORY}/{name}"), &script);
    }
}

/// Types a line into an interactive shell, and returns everything that the terminal shows.
fn typed(host: &Host, program: &[&str], start: &str, line: &str) -> String {
    let mut python = shell(host, User::Root, "python3");
    python.args(["-I", "-c", include_str!("type.py"), start, line]).args(program);
    succeed(&mut python)
}

/// Types this line, until the terminal shows the text. Completion is quick: it offers nothing if the actor takes longer
/// than a second to reply.
fn assert_typed(host: &Host, program: &[&str], start: &str, line: &str, text: &str) {
    let look = || typed(host, program, start, line);
    let (screen, is_shown) = wait::observe(wait::TIMEOUT, look, |screen| screen.contains(text));
    assert!(is_shown, "{screen}");
}

/// A site with a domain that has a space in its name.
fn site(host: &Host) -> Site<'_> {
    copy_scripts(host);
    let site = Site::new(host);
    site.libvirtd.define(TEST, &test_domain("my web server", SPACE_MAC));
    wait::until_true("the actor to know the domain", || site.ctl(&["list"]).contains("my web server\tshut"));
    site
}

#[test]
fn bash_completes_verbs_and_domains() {
    privileged!();
    let host = Host::new();
    let _site = site(&host);
    let bash = ["bash", "--norc", "--noprofile", "-i"];
    let start = format!("PS1=; source {DIRECTORY}/wakevirtctl.bash");
    assert_typed(&host, &bash, &start, "wakevirtctl sho\tmy\t", SPACE_MAC);
}

#[test]
fn zsh_completes_verbs_and_domains() {
    privileged!();
    let host = Host::new();
    let _site = site(&host);
    let zsh = ["zsh", "-f", "-i"];
    let start =
        format!("PS1=; fpath=({DIRECTORY} $fpath); autoload -U compinit; compinit -u -d /run/zcompdump");
    assert_typed(&host, &zsh, &start, "wakevirtctl sho\tmy\t", SPACE_MAC);
}

#[test]
fn fish_completes_verbs_and_domains() {
    privileged!();
    let host = Host::new();
    let _site = site(&host);
    let complete = |user, line: &str| {
        let script = format!("source {DIRECTORY}/wakevirtctl.fish; complete -C '{line}'");
        succeed(shell(&host, user, "fish").args(["--no-config", "-c", &script]))
    };
    let verbs = complete(User::Root, "wakevirtctl s");
    assert!(verbs.contains("status\t") && verbs.contains("show\t"), "{verbs}");
    wait::until_true("the domains", || {
        let domains = complete(User::Root, "wakevirtctl show ");
        domains.contains("vm1\tshut off\n") && domains.contains("my web server\t")
    });
    wait::until_true("the domain", || complete(User::Root, "wakevirtctl wake --glob vm").contains("vm2\t"));
    // A user who is not allowed to list domains gets no candidates, and no error.
    assert!(!complete(User::Unprivileged, "wakevirtctl show ").contains("vm1"));
}

#[test]
fn completion_is_silent_without_the_services() {
    privileged!();
    let host = Host::new();
    copy_scripts(&host);
    let script = format!("source {DIRECTORY}/wakevirtctl.fish; complete -C 'wakevirtctl show '");
    let output =
        shell(&host, User::Unprivileged, "fish").args(["--no-config", "-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
