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

/// The first block in a section of the README that shows the output of a command.
///
/// # Panics
/// If the README has no such section, or the section has no such block.
#[must_use]
pub fn output(section: &str) -> String {
    let mut blocks = blocks_of("README.md", section, "");
    assert!(!blocks.is_empty(), "the section \"{section}\" of README.md shows no output");
    blocks.remove(0)
}

/// The blocks of shell commands in a section of this page, in order.
///
/// # Panics
/// If there is no such page or section, or the section has no commands.
#[must_use]
pub fn commands_of(page: &str, section: &str) -> Vec<String> {
    let blocks = blocks_of(page, section, "sh");
    assert!(!blocks.is_empty(), "the section \"{section}\" of {page} has no commands");
    blocks
}

/// The fenced blocks with this info string in a section of a page.
///
/// # Panics
/// If there is no such page or section.
#[must_use]
pub fn blocks_of(page: &str, section: &str, info: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(project().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let heading = format!("## {section}\n");
    let (_, text) =
        text.split_once(&heading).unwrap_or_else(|| panic!("{page} has no section \"{section}\""));
    let text = text.split("\n## ").next().unwrap_or(text);
    // Text and blocks alternate. The info string is the first line of a block.
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter(|(name, _)| *name == info).map(|(_, content)| content.to_owned()).collect()
}
