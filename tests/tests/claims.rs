//! docs/TESTS.md names the tests for the statements in ARCHITECTURE.md and THREAT-MODEL.md. These tests check that the
//! named tests exist, and that the page lists all numbered statements.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use wakevirt_tests::host::project;
use wakevirt_tests::project::files;

/// A table row in docs/TESTS.md.
struct Row {
    /// A number or a heading in the document to which the row refers.
    location: String,
    /// The tests that verify the statement, or "none".
    tests: String,
}

fn read(page: &str) -> String {
    std::fs::read_to_string(project().join(page)).expect("the page exists")
}

/// The cells of a Markdown table row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// The rows below this heading in docs/TESTS.md, without the table's header.
fn rows(heading: &str) -> Vec<Row> {
    let text = read("docs/TESTS.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the section exists");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter_map(cells).skip(2).map(|cells| {
        let [location, statement, tests] = <[&str; 3]>::try_from(cells).expect("a row has three cells");
        assert!(!statement.is_empty(), "{location} has a row without a statement");
        Row { location: location.to_owned(), tests: tests.to_owned() }
    });
    rows.collect()
}

/// The tests in a cell, as pairs of file and function. The cell names them as `file: function`, followed by further
/// functions of the file. The function is empty if the cell names only a file.
fn references(tests: &str) -> Vec<(String, String)> {
    let is_function = |name: &str| {
        let is_name = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
        !name.is_empty() && name.chars().all(is_name)
    };
    let mut found = Vec::new();
    for source in tests.split(';') {
        let mut file = None;
        for code in source.split('`').skip(1).step_by(2) {
            if let Some((path, name)) = code.split_once(": ").filter(|(_, name)| is_function(name)) {
                file = Some(path.to_owned());
                found.push((path.to_owned(), name.to_owned()));
            } else if code.ends_with(".rs") {
                file = Some(code.to_owned());
                found.push((code.to_owned(), String::new()));
            } else if let Some(path) = file.as_ref().filter(|_| is_function(code)) {
                found.push((path.clone(), code.to_owned()));
            }
        }
    }
    found
}

/// The numbers of a document's invariants and table rows.
fn numbers(text: &str) -> BTreeSet<String> {
    let is_number = |text: &str| {
        let digits = text.trim_start_matches(|c: char| c.is_ascii_uppercase());
        text.len() - digits.len() <= 1 && digits.parse::<u32>().is_ok()
    };
    let invariants = text.split_once("\n## Invariants\n").map_or("", |(_, section)| section);
    let invariants = invariants.split("\n## ").next().unwrap_or_default();
    let invariants = invariants.lines().filter_map(|line| Some(line.split_once(". ")?.0));
    let attacks = text.lines().filter_map(|line| cells(line)?.first().copied());
    invariants.chain(attacks).filter(|text| is_number(text)).map(str::to_owned).collect()
}

fn headings(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_owned())
        .collect()
}

/// For each document: the heading in docs/TESTS.md, the path, and the minimum number of numbered statements.
const DOCUMENTS: [(&str, &str, usize); 2] =
    [("Architecture", "docs/ARCHITECTURE.md", 38), ("Threat model", "docs/THREAT-MODEL.md", 90)];

#[test]
fn rows_name_existing_tests() {
    let sources = files::of_project(&["*.rs"]);
    let exists = |(file, name): &(String, String)| {
        let defines = |(path, code): &(String, String)| {
            path == file && (name.is_empty() || code.contains(&format!("fn {name}(")))
        };
        sources.iter().any(defines)
    };
    for (heading, _, _) in DOCUMENTS {
        let references: Vec<_> = rows(heading).iter().flat_map(|row| references(&row.tests)).collect();
        assert!(references.len() >= 100, "{heading} names only {} tests", references.len());
        let missing: Vec<_> = references.iter().filter(|test| !exists(test)).collect();
        assert!(missing.is_empty(), "{heading} names tests that do not exist: {missing:#?}");
    }
}

#[test]
fn rows_name_a_test_or_say_none() {
    for (heading, _, _) in DOCUMENTS {
        for Row { location, tests } in rows(heading) {
            let has_none = tests == "none" || tests.starts_with("none:") || tests.starts_with("none;");
            assert!(has_none || !references(&tests).is_empty(), "{heading}, {location}: {tests}");
        }
    }
}

#[test]
fn all_numbered_statements_have_a_row() {
    for (heading, page, minimum) in DOCUMENTS {
        let text = read(page);
        let (numbers, headings) = (numbers(&text), headings(&text));
        assert!(numbers.len() >= minimum, "{page} has only {} numbered statements", numbers.len());
        let listed: BTreeSet<_> = rows(heading).into_iter().map(|row| row.location).collect();
        let unlisted: Vec<_> = numbers.difference(&listed).collect();
        assert!(unlisted.is_empty(), "docs/TESTS.md has no row for these statements in {page}: {unlisted:?}");
        let unknown: Vec<_> = listed
            .iter()
            .filter(|location| !numbers.contains(*location) && !headings.contains(*location))
            .collect();
        assert!(unknown.is_empty(), "{page} has no such number or heading: {unknown:?}");
    }
}
