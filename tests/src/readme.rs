//! What the README tells an administrator to do.

use crate::host::project;

/// The blocks of shell commands in a section, in their order.
///
/// # Panics
/// If the README has no such section, or no commands in it.
#[must_use]
pub fn commands(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(project().join("README.md")).expect("there is a README");
    let heading = format!("## {section}\n");
    let (_, text) = readme.split_once(&heading).unwrap_or_else(|| panic!("the README has no \"{section}\""));
    let text = text.split("\n## ").next().unwrap_or(text);
    let blocks: Vec<String> = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| Some(block.split_once("```")?.0.to_owned()))
        .collect();
    assert!(!blocks.is_empty(), "\"{section}\" of the README has no commands");
    blocks
}
