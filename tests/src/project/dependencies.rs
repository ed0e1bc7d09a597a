//! The dependencies of programs that must contain little code.

use std::collections::BTreeSet;
use std::process::Command;

use crate::host::{project, succeed};

/// Checks that a package links only the crates that `dependencies.txt` in its directory lists. `reason` says why a new
/// crate matters.
///
/// # Panics
/// If the list differs.
pub fn assert_listed(package: &str, directory: &str, reason: &str) {
    let file = format!("{directory}/dependencies.txt");
    let listed = std::fs::read_to_string(project().join(&file)).expect("the list can be read");
    let listed: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
    let linked = dependencies(package);
    let new: Vec<_> = linked.difference(&listed).collect();
    let removed: Vec<_> = listed.difference(&linked).collect();
    assert!(
        new.is_empty() && removed.is_empty(),
        "the dependencies of {package} differ from {file}: new {new:?}, removed {removed:?}. {reason}: give the reason \
         in the commit message (CONTRIBUTING.md, Rules) and update the list"
    );
}

/// The names of all crates that a package links on Linux, including indirect dependencies.
fn dependencies(package: &str) -> BTreeSet<String> {
    let tree = succeed(
        Command::new(env!("CARGO"))
            .args(["tree", "--package", package, "--edges", "normal", "--offline", "--locked"])
            .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"])
            .current_dir(project()),
    );
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != package).map(str::to_owned).collect()
}
