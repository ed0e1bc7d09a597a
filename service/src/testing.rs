//! What several of this crate's tests need.

use std::process::{Command, Output};

/// Set where a test runs as another test's second process.
const SECOND: &str = "WAKEVIRT_TEST_SECOND_PROCESS";

/// Whether a test that needs `what` can run; where it must run, its absence is a failure.
pub(crate) fn have(what: &str, there: bool) -> bool {
    if !there {
        let must = std::env::var("CI").is_ok_and(|ci| ci == "true")
            || std::env::var("WAKEVIRT_NO_SKIP").is_ok_and(|no_skip| no_skip == "1");
        assert!(!must, "this test needs {what}, and no test may be skipped here");
        println!("SKIPPED: this test needs {what}");
    }
    there
}

pub(crate) fn have_root() -> bool {
    have("root", nix::unistd::Uid::effective().is_root())
}

/// Whether this is the second process that [`second`] prepares; such tests do nothing otherwise.
pub(crate) fn is_second() -> bool {
    std::env::var_os(SECOND).is_some()
}

/// The arguments that run a test of this crate in a process with one thread.
pub(crate) fn arguments(test: &str) -> [&str; 5] {
    ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]
}

/// Prepares a second process that runs the test of this name; `before` goes before its own command line.
pub(crate) fn second(before: &[&str], test: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut line: Vec<_> = before.iter().map(AsRef::as_ref).collect();
    line.push(own.as_os_str());
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).args(arguments(test)).env(SECOND, "1");
    command
}

/// Runs it to its end, which must be a good one; returns what it printed: standard output, then standard error.
pub(crate) fn run(mut command: Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success() && stdout.contains("1 passed"), "{status}\n{stdout}\n{stderr}");
    (stdout, stderr)
}
