//! Support for tests that run in a second process, for several modules of this crate.

use std::process::{Command, Output};

/// The environment variable that is set in the second process of a test.
const SECOND: &str = "WAKEVIRT_TEST_SECOND_PROCESS";

/// Whether this process is the second process of a test. The ignored tests that run in such a process do nothing in any
/// other.
pub(crate) fn is_second() -> bool {
    std::env::var_os(SECOND).is_some()
}

/// The arguments that run one test of this crate in a process with one thread.
pub(crate) fn arguments(test: &str) -> [&str; 5] {
    ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]
}

/// Prepares a second process that runs the test of this name. `before` is a prefix of its command line.
pub(crate) fn second_process(before: &[&str], test: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut line: Vec<_> = before.iter().map(AsRef::as_ref).collect();
    line.push(own.as_os_str());
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).args(arguments(test)).env(SECOND, "1");
    command
}

/// Runs the second process, which must succeed. Returns its standard output and standard error.
pub(crate) fn run(mut command: Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success() && stdout.contains("1 passed"), "{status}\n{stdout}\n{stderr}");
    (stdout, stderr)
}
