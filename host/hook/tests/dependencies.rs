//! The hook links only the crates that `dependencies.txt` lists.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::process::Command;

/// The names of all crates that the hook links on Linux, including indirect dependencies.
fn dependencies() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "wakevirt-hook", "--edges", "normal", "--offline", "--locked"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "wakevirt-hook").map(str::to_owned).collect()
}

#[test]
fn dependencies_match_the_committed_list() {
    let listed: BTreeSet<_> = include_str!("../dependencies.txt").lines().map(str::to_owned).collect();
    let linked = dependencies();
    let new: Vec<_> = linked.difference(&listed).collect();
    let removed: Vec<_> = listed.difference(&linked).collect();
    assert!(
        new.is_empty() && removed.is_empty(),
        "the hook's dependencies differ from host/hook/dependencies.txt: new {new:?}, removed {removed:?}. \
         Each new crate runs as root whenever a domain starts or stops: give the reason in the commit \
         message (CONTRIBUTING.md, Rules) and update the list"
    );
}
