//! The second process of a check: it changes its user and prints what became of it.

use std::process::Command;

use caps::Capability;
use nix::unistd::{Uid, setuid};
use wakevirt_service::user::change_to;

/// The name of the user; tells also that this is the second process.
const USER: &str = "WAKEVIRT_TEST_USER";
/// The groups to be in besides the user's own, with commas between them; none if it is not there.
pub(crate) const GROUPS: &str = "WAKEVIRT_TEST_GROUPS";
/// The capabilities to keep, with commas between them.
const KEEP: &str = "WAKEVIRT_TEST_KEEP";
/// The number of threads, `1` or `2`.
const THREADS: &str = "WAKEVIRT_TEST_THREADS";

pub(crate) fn is_second() -> bool {
    std::env::var_os(USER).is_some()
}

pub(crate) fn change() {
    let (groups, keep) = (std::env::var(GROUPS).unwrap_or_default(), std::env::var(KEEP).unwrap());
    let groups: Vec<&str> = names(&groups).collect();
    let keep: Vec<Capability> = names(&keep).map(|name| name.parse().unwrap()).collect();
    if std::env::var(THREADS).unwrap() == "2" {
        std::thread::spawn(std::thread::park);
    }
    match change_to(&std::env::var(USER).unwrap(), &groups, &keep) {
        Ok(changed) => println!("CHANGED {changed}"),
        Err(error) => println!("ERROR {error}"),
    }
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap());
    println!("BACK {}", setuid(Uid::from_raw(0)).is_ok());
    println!("KEEPCAPS {}", caps::securebits::has_keepcaps().unwrap());
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|name| !name.is_empty())
}

/// What became of a second process.
pub(crate) struct Became(String);

impl Became {
    /// Runs it; `before` goes before its command line.
    pub(crate) fn run(before: &[&str], user: &str, keep: &str, threads: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut line: Vec<_> = before.iter().map(AsRef::as_ref).collect();
        line.push(own.as_os_str());
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env(USER, user).env(KEEP, keep).env(THREADS, threads);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).unwrap())
    }

    /// What follows a word at the start of a line, with single blanks.
    pub(crate) fn line(&self, word: &str) -> String {
        let line = self.0.lines().find_map(|line| line.strip_prefix(word));
        let line = line.unwrap_or_else(|| panic!("no {word} in {}", self.0));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Inheritable, permitted, effective, bounding and ambient set.
    pub(crate) fn capabilities(&self) -> [u64; 5] {
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
            .map(|set| u64::from_str_radix(&self.line(set), 16).unwrap())
    }
}
