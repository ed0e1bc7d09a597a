//! The modules of a crate import in one direction: docs/ARCHITECTURE.md lists them in that order.

use wakevirt_tests::host::project;
use wakevirt_tests::project::files;

/// Files that are not in the order: they start the service, or define the error of all modules.
const BESIDE: [&str; 3] = ["lib", "main", "error"];

/// The module of a path below the source folder, such as `model` for `model/packet.rs`.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// The modules of this crate, in the order of its table.
fn order(folder: &str) -> Vec<String> {
    let page = std::fs::read_to_string(project().join("docs/ARCHITECTURE.md")).unwrap_or_default();
    let (_, section) = page.split_once("\n### Modules\n").unwrap_or_default();
    let rows = section.split("\n## ").next().unwrap_or_default().lines();
    let start = format!("| `{folder}/");
    let paths = rows.filter_map(|row| Some(row.strip_prefix(&start)?.split_once('`')?.0));
    paths.map(|path| module(path).to_owned()).collect()
}

/// The names that follow `crate::` in this code, those of a group included.
fn imports(code: &str) -> Vec<&str> {
    let is_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = lines.flat_map(|line| line.split("crate::").skip(1));
    let mut names: Vec<_> =
        paths.map(|rest| rest.split(|c| !is_name(c)).next().unwrap_or_default()).collect();
    for group in code.split("crate::{").skip(1) {
        let group = group.split(';').next().unwrap_or_default();
        names.extend(group.split(|c| !is_name(c)));
    }
    names
}

/// The imports against the order, as "file -> module", and the number of imports that follow it.
fn check(folder: &str) -> (Vec<String>, usize) {
    let order = order(folder);
    let place = |name: &str| order.iter().position(|module| module == name);
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (path, code) in files::of_project(&[&format!("{folder}/*.rs")]) {
        let own = module(path.trim_start_matches(folder).trim_start_matches('/'));
        let Some(own) = place(own) else {
            if !BESIDE.contains(&own) {
                wrong.push(format!("{path} is in no module of the table"));
            }
            continue;
        };
        for import in imports(&code) {
            match place(import) {
                Some(other) if other > own => wrong.push(format!("{path} -> {import}")),
                Some(_) => right += 1,
                None => {}
            }
        }
    }
    (wrong, right)
}

#[test]
fn modules_import_only_those_above_them() {
    for (folder, modules, imports) in [("actor/src", 9, 80), ("capture/src", 7, 40)] {
        assert_eq!(order(folder).len(), modules, "docs/ARCHITECTURE.md lists other modules of {folder}");
        let (wrong, right) = check(folder);
        assert!(wrong.is_empty(), "{folder}: {wrong:#?}");
        assert!(right >= imports, "{folder}: only {right} imports were found");
    }
}
