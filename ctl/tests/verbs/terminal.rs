//! The output on a terminal.

use wakevirt_tests::host::{Host, PROGRAMS, User, succeed};
use wakevirt_tests::privileged;

use crate::site::Site;

/// Runs the program on a terminal, and returns what the terminal receives.
fn on_terminal(host: &Host, variables: &[(&str, &str)], verb: &str) -> String {
    let mut script = host.command_as(User::Root, "script");
    script.args(["--quiet", "--return", "--command"]);
    script.arg(format!("stty columns 60; {PROGRAMS}/wakevirtctl {verb}")).arg("/dev/null");
    succeed(script.env("TERM", "xterm").envs(variables.iter().copied()))
}

#[test]
fn has_headings_and_colours_only_on_a_terminal() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let coloured = on_terminal(&host, &[], "list");
    assert!(
        coloured.contains("\u{1b}[1mDOMAIN\u{1b}[0m") && coloured.contains("\u{1b}[32myes\u{1b}[0m"),
        "{coloured}"
    );
    let plain = on_terminal(&host, &[("NO_COLOR", "1")], "list");
    assert!(plain.starts_with("DOMAIN  STATE     MAC ") && !plain.contains('\u{1b}'), "{plain}");
    // The last column is truncated.
    assert!(plain.contains('…') && !plain.contains("domain = \"vm1\""), "{plain}");
    let piped = site.ctl(&["list"]);
    assert!(!piped.contains("DOMAIN") && piped.contains("domain = \"vm1\""), "{piped}");
}
