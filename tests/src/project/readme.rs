//! The shell commands in the README and in other pages.

use crate::host::project;

/// The blocks of shell commands in a section of the README, in order.
///
/// # Panics
/// If the README has no such section, or the section has no commands.
#[must_use]
pub fn commands(section: &str) -> Vec<String> {
    commands_of("README.md", section)
}

/// The blocks of shell commands in a section of this page, in order.
///
/// # Panics
/// If there is no such page or section, or the section has no commands.
#[must_use]
pub fn commands_of(page: &str, section: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(project().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let heading = format!("## {section}\n");
    let (_, text) =
        text.split_once(&heading).unwrap_or_else(|| panic!("{page} has no section \"{section}\""));
    let text = text.split("\n## ").next().unwrap_or(text);
    let blocks: Vec<String> = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| Some(block.split_once("```")?.0.to_owned()))
        .collect();
    assert!(!blocks.is_empty(), "the section \"{section}\" of {page} has no commands");
    blocks
}
