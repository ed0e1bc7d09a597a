//! The threat model names the test that shows each refusal: that test must be there.

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

/// What stands between backquotes: `file: function`, and further functions of the last file named in
/// the same line of a table, or in the same paragraph.
fn references(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for paragraph in text.split("\n\n").flat_map(|block| block.split("|\n")) {
        let mut file = None;
        for code in paragraph.split('`').skip(1).step_by(2) {
            let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
            let is_test = |name: &str| {
                name.contains('_')
                    && name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
            };
            if let Some((path, name)) = code.split_once(": ").filter(|(_, name)| is_test(name)) {
                file = Some(path.to_owned());
                found.push((path.to_owned(), name.to_owned()));
            } else if let Some(path) = file.as_ref().filter(|_| is_test(&code)) {
                found.push((path.clone(), code));
            } else if code.ends_with(".rs") {
                file = Some(code.clone());
                found.push((code, String::new()));
            }
        }
    }
    found
}

#[test]
fn names_tests_that_are_there() {
    let text =
        std::fs::read_to_string(project().join("docs/THREAT-MODEL.md")).expect("there is a threat model");
    let sources = sources();
    let references = references(&text);
    assert!(references.len() > 50, "only {} tests are named", references.len());
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
    assert!(missing.is_empty(), "docs/THREAT-MODEL.md names tests that are not there: {missing:#?}");
}
