//! The second process of a test: it changes its user and prints the result.

use std::process::Command;

use caps::Capability;
use nix::unistd::{Uid, setuid};
use wakevirt_service::user::change_to;

/// The name of the user. The variable is set only in the second process.
const USER: &str = "WAKEVIRT_TEST_USER";
/// Additional groups, separated by commas; optional.
pub(crate) const GROUPS: &str = "WAKEVIRT_TEST_GROUPS";
/// The capabilities to retain, separated by commas.
const RETAIN: &str = "WAKEVIRT_TEST_RETAIN";
/// The number of threads, `1` or `2`.
const THREADS: &str = "WAKEVIRT_TEST_THREADS";

pub(crate) fn is_second() -> bool {
    std::env::var_os(USER).is_some()
}

pub(crate) fn change() {
    let (groups, retain) = (std::env::var(GROUPS).unwrap_or_default(), std::env::var(RETAIN).unwrap());
    let groups: Vec<&str> = names(&groups).collect();
    let retain: Vec<Capability> = names(&retain).map(|name| name.parse().unwrap()).collect();
    if std::env::var(THREADS).unwrap() == "2" {
        std::thread::spawn(std::thread::park);
    }
    match change_to(&std::env::var(USER).unwrap(), &groups, &retain) {
        Ok(changed) => println!("CHANGED {changed}"),
        Err(error) => println!("ERROR {error}"),
    }
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap());
    println!("REGAINS_ROOT {}", setuid(Uid::from_raw(0)).is_ok());
    println!("KEEPCAPS {}", caps::securebits::has_keepcaps().unwrap());
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|name| !name.is_empty())
}

/// The output of a second process.
pub(crate) struct ProcessState(String);

impl ProcessState {
    /// Runs a second process. `before` is a prefix of its command line.
    pub(crate) fn run(before: &[&str], user: &str, retain: &str, threads: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut line: Vec<_> = before.iter().map(AsRef::as_ref).collect();
        line.push(program.as_os_str());
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env(USER, user).env(RETAIN, retain).env(THREADS, threads);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).unwrap())
    }

    /// The remainder of the line that begins with a word, with single spaces.
    pub(crate) fn line(&self, word: &str) -> String {
        let line = self.0.lines().find_map(|line| line.strip_prefix(word));
        let line = line.unwrap_or_else(|| panic!("no {word} in {}", self.0));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The inheritable, permitted, effective, bounding and ambient sets.
    pub(crate) fn capabilities(&self) -> [u64; 5] {
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
            .map(|set| u64::from_str_radix(&self.line(set), 16).unwrap())
    }
}
