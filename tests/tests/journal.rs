//! The fields and the message IDs in the journal: the code, the catalog and wakevirt-journal(7) match.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use wakevirt_tests::host::project;
use wakevirt_tests::project::files;

/// The files that define the kinds, and that explain them.
const KINDS: &str = "service/src/logs/kind.rs";
const CATALOG: &str = "systemd/wakevirt.catalog";
const PAGE: &str = "docs/man/wakevirt-journal.7";

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The code of the services that can log, without tests.
fn code() -> Vec<(String, String)> {
    let mut code = files::of_project(&[
        "actor/src/*.rs",
        "actor/libvirt/src/*.rs",
        "kubevirt/src/*.rs",
        "capture/src/*.rs",
        "service/src/*.rs",
        "libvirt/src/*.rs",
        "host/src/*.rs",
        "host/sleep/src/*.rs",
    ]);
    code.retain(|(path, _)| !path.ends_with("/tests.rs") && !path.contains("/tests/"));
    code.iter_mut().for_each(|(_, text)| text.truncate(text.find("\nmod tests {").unwrap_or(text.len())));
    code
}

/// Each kind: its name, ID and description.
fn kinds() -> Vec<(String, String, String)> {
    let text = read(KINDS);
    let mut kinds = Vec::new();
    for definition in text.split("/// ").skip(1) {
        let (description, rest) = definition.split_once(".\npub const ").expect("a description");
        let (name, rest) = rest.split_once(": &str = \"").expect("a constant");
        let (id, _) = rest.split_once('"').expect("an ID");
        kinds.push((name.to_owned(), id.to_owned(), description.to_owned()));
    }
    kinds
}

/// The description of each ID in the code.
fn descriptions() -> BTreeMap<String, String> {
    kinds().into_iter().map(|(_, id, description)| (id, description)).collect()
}

/// The messages in this code: each `tracing::LEVEL!(…)`, with its level and arguments.
fn messages(text: &str) -> Vec<(&str, &str)> {
    let calls = text.split("tracing::").skip(1);
    calls
        .filter_map(|call| {
            let (level, arguments) = call.split_once("!(")?;
            let is_level = level.chars().all(|c| c.is_ascii_lowercase() || c == '$');
            is_level.then(|| (level, arguments.split(");").next().unwrap_or(arguments)))
        })
        .filter(|(level, _)| ["error", "warn", "info", "debug", "trace", "$log"].contains(level))
        .collect()
}

/// The entries of a section of the page, with the lines below each.
fn entries(section: &str, macro_name: &str) -> BTreeMap<String, String> {
    let page = read(PAGE);
    let (_, text) = page.split_once(&format!("\n.Sh {section}\n")).expect("the section exists");
    let text = text.split("\n.Sh ").next().unwrap_or(text);
    let start = format!("\n.It {macro_name} ");
    let items = text.split(start.as_str()).skip(1);
    let entry = |item: &str| {
        let (tag, body) = item.split_once('\n').unwrap_or((item, ""));
        let body = body.split("\n.El").next().unwrap_or(body);
        (tag.to_owned(), body.trim_end_matches('.').to_owned())
    };
    items.map(entry).collect()
}

#[test]
fn ids_are_unique_and_valid() {
    let kinds = kinds();
    assert!(kinds.len() >= 50, "{kinds:#?}");
    let ids: BTreeSet<&str> = kinds.iter().map(|(_, id, _)| id.as_str()).collect();
    assert_eq!(ids.len(), kinds.len(), "an ID is used twice");
    for id in ids {
        let is_hex = id.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        assert!(id.len() == 32 && is_hex, "{id} is not a message ID");
    }
}

#[test]
fn catalog_describes_every_kind() {
    let catalog = read(CATALOG);
    let mut described = BTreeMap::new();
    for entry in catalog.split("\n-- ").skip(1) {
        let (id, rest) = entry.split_once("\nSubject: ").expect("an entry has a subject");
        let (subject, rest) = rest.split_once('\n').expect("an entry has a description");
        let header = "Defined-By: wakevirt\nDocumentation: man:wakevirt-journal(7)\n\n";
        let text = rest.strip_prefix(header).unwrap_or_else(|| panic!("{subject}: an unexpected header"));
        assert!(text.trim().len() > 20, "{subject}: the description is missing");
        // journalctl does not escape values. This is the only field whose value a packet's sender or a caller cannot choose.
        let fields: Vec<&str> = text.split('@').skip(1).step_by(2).collect();
        assert!(fields.iter().all(|field| *field == "WAKEVIRT_UUID"), "{subject}: {fields:?}");
        described.insert(id.to_owned(), subject.to_owned());
    }
    assert_eq!(described, descriptions(), "left: {CATALOG}, right: {KINDS}");
}

#[test]
fn page_lists_every_kind() {
    assert_eq!(entries("MESSAGE IDS", "Li"), descriptions(), "left: {PAGE}, right: {KINDS}");
}

#[test]
fn every_message_has_a_kind() {
    let (mut without, mut count) = (Vec::new(), 0);
    for (path, text) in code() {
        for (level, arguments) in messages(&text) {
            let is_detail = ["debug", "trace"].contains(&level);
            count += 1;
            if !is_detail && !arguments.trim_start().starts_with("MESSAGE_ID = ") {
                without.push(format!("{path}: {}", arguments.lines().take(3).collect::<String>()));
            }
        }
    }
    assert!(count >= 60, "only {count} messages were found");
    assert!(without.is_empty(), "add a kind to {KINDS}, {CATALOG} and {PAGE}: {without:#?}");
}

#[test]
fn every_kind_is_used() {
    let code: String = code().into_iter().map(|(_, text)| text).collect();
    let unused: Vec<_> =
        kinds().into_iter().filter(|(name, ..)| !code.contains(&format!("kind::{name}"))).collect();
    assert!(unused.is_empty(), "{unused:#?}");
}

/// The fields of the messages: `NAME = value`.
fn fields() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for (_, text) in code() {
        for (_, arguments) in messages(&text) {
            // The message text follows the fields.
            let before = arguments.split("\n                \"").next().unwrap_or(arguments);
            let names =
                before.split([',', '\n', '(']).filter_map(|part| Some(part.split_once(" = ")?.0.trim()));
            let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            fields.extend(names.filter(is_name).map(str::to_owned));
        }
    }
    fields
}

#[test]
fn page_lists_every_field() {
    let documented: BTreeSet<String> = entries("FIELDS", "Va").into_keys().collect();
    assert_eq!(documented, fields(), "left: {PAGE}, right: the code");
}

#[test]
fn documented_targets_are_modules() {
    let targets = entries("LOG TARGETS", "Cm");
    assert!(targets.len() >= 8, "{targets:?}");
    for target in targets.keys() {
        let (name, module) = target.split_once("::").unwrap_or((target, ""));
        let name = name.strip_prefix("wakevirt_").expect("a crate");
        // The crate is a directory, or a directory in that of its service.
        let directory = if name == "sleep" { "host/sleep".to_owned() } else { name.replace('_', "/") };
        let source = project().join(directory).join("src");
        let exists = |path: &Path| path.is_dir() || path.with_extension("rs").is_file();
        assert!(exists(&source.join(module)), "{target} is not a module");
    }
}
