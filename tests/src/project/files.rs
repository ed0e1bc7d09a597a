//! The project's files, as git lists them.

use std::process::Command;

use crate::host::{project, succeed};

/// The paths and contents of all text files that match one of these git-ls-files(1) patterns, including files that are
/// not committed yet.
#[must_use]
pub fn of_project(patterns: &[&str]) -> Vec<(String, String)> {
    let mut git = Command::new("git");
    // The directory might belong to a different user.
    git.args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "--"]);
    let list = succeed(git.args(patterns).current_dir(project()));
    list.lines()
        .filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(project().join(path)).ok()?)))
        .collect()
}
