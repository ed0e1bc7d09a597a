//! The architecture and the threat model name the tests that show what they claim: those must be there.

use std::process::Command;

use wakevirt_tests::host::{project, succeed};

/// The sources of the project, by their paths.
fn sources() -> Vec<(String, String)> {
    let mut git = Command::new("git");
    // What is not committed yet counts as well; the folder may belong to another user.
    git.args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let list = succeed(git.current_dir(project()));
    list.lines()
        .filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(project().join(path)).ok()?)))
        .collect()
}

/// What stands between backquotes: `file: function`, further functions of that file if nothing but commas
/// part them, and files.
fn references(text: &str) -> Vec<(String, String)> {
    let is_test = |name: &str| {
        name.contains('_') && name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    let mut found = Vec::new();
    let mut file = None;
    let parts: Vec<_> = text.split('`').collect();
    for pair in parts.chunks_exact(2) {
        let [before, code] = pair else { continue };
        if !matches!(before.trim(), "," | "and" | ", and") {
            file = None;
        }
        let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((path, name)) = code.split_once(": ").filter(|(_, name)| is_test(name)) {
            file = Some(path.to_owned());
            found.push((path.to_owned(), name.to_owned()));
        } else if let Some(path) = file.as_ref().filter(|_| is_test(&code)) {
            found.push((path.clone(), code));
        } else if code.ends_with(".rs") {
            found.push((code, String::new()));
        }
    }
    found
}

#[test]
fn name_tests_that_are_there() {
    let sources = sources();
    for (page, least) in [("docs/THREAT-MODEL.md", 80), ("docs/ARCHITECTURE.md", 80)] {
        let text = std::fs::read_to_string(project().join(page)).expect("the page is there");
        let references = references(&text);
        assert!(references.len() >= least, "{page} names only {} tests", references.len());
        let missing: Vec<_> = references
            .iter()
            .filter(|(file, name)| {
                let is_there = |(path, code): &(String, String)| {
                    let named = path.ends_with(file) || path.starts_with(file);
                    named && (name.is_empty() || code.contains(&format!("fn {name}(")))
                };
                !sources.iter().any(is_there)
            })
            .collect();
        assert!(missing.is_empty(), "{page} names tests that are not there: {missing:#?}");
    }
}
