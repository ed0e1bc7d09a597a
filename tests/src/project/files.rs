//! The files of the project, as git knows them.

use std::process::Command;

use crate::host::{project, succeed};

/// Each file that one of these patterns of git-ls-files(1) names, with its text. What is not committed yet counts
/// as well; what is not text does not.
#[must_use]
pub fn of_project(patterns: &[&str]) -> Vec<(String, String)> {
    let mut git = Command::new("git");
    // The folder may belong to another user.
    git.args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "--"]);
    let list = succeed(git.args(patterns).current_dir(project()));
    list.lines()
        .filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(project().join(path)).ok()?)))
        .collect()
}
