//! The architecture and the threat model name the tests that show what they claim: those must be there.

use wakevirt_tests::files;
use wakevirt_tests::host::project;

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
    let sources = files::of_project(&["*.rs"]);
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
