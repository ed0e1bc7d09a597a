//! The modules of a crate import in one direction: docs/ARCHITECTURE.md lists them in that order. The files of a module
//! do not form import cycles.

use std::collections::{BTreeMap, BTreeSet};

use wakevirt_tests::host::project;
use wakevirt_tests::project::files;

/// Files without a position in the order: they start the service, or define the error type of all modules.
const UNORDERED: [&str; 3] = ["lib", "main", "error"];

/// Modules whose files form import cycles, and the reason.
const WITH_CYCLES: [(&str, &str); 1] = [("engine", "its files are the parts of one task")];

/// The names in a path from the crate, such as `model` and `packet`.
type Path<'a> = Vec<&'a str>;

/// The module that this file below the source directory defines.
fn module(file: &str) -> Path<'_> {
    file.trim_end_matches(".rs").split('/').filter(|name| !["", "mod"].contains(name)).collect()
}

/// The top-level modules of this crate, in the order of its table.
fn order(directory: &str) -> Vec<String> {
    let page = std::fs::read_to_string(project().join("docs/ARCHITECTURE.md")).unwrap_or_default();
    let (_, section) = page.split_once("\n### Modules\n").unwrap_or_default();
    let rows = section.split("\n## ").next().unwrap_or_default().lines();
    let start = format!("| `{directory}/");
    let paths = rows.filter_map(|row| Some(row.strip_prefix(&start)?.split_once('`')?.0));
    paths.map(module).filter(|module| module.len() == 1).map(|module| module.concat()).collect()
}

/// The source files of a crate: their paths below its directory, and their code without comments.
fn sources(directory: &str) -> Vec<(String, String)> {
    let files = files::of_project(&[&format!("{directory}/*.rs")]).into_iter();
    let source = |(path, text): (String, String)| {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        Some((path.strip_prefix(directory)?.to_owned(), code.collect::<Vec<_>>().join("\n")))
    };
    files.filter_map(source).collect()
}

/// The paths in the code of a module that begin with `crate`, `super`, `self` or the name of a child, each as a path
/// from the crate.
fn imports<'a>(module: &[&'a str], code: &'a str, children: &[&str]) -> Vec<Path<'a>> {
    let in_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let mut imports = Vec::new();
    for (end, _) in code.match_indices("::") {
        let (before, _) = code.split_at(end);
        let (before, path) = code.split_at(before.trim_end_matches(in_name).len());
        let (path, rest) = path.split_at(path.find(|c| !in_name(c) && c != ':').unwrap_or(path.len()));
        let first = path.split("::").next().unwrap_or_default();
        if before.ends_with(':')
            || !(["crate", "super", "self"].contains(&first) || children.contains(&first))
        {
            continue;
        }
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        for last in group.split(',').map(|item| item.split_whitespace().next().unwrap_or_default()) {
            imports.push(path.split("::").chain(last.split("::")).fold(module.to_vec(), |mut path, name| {
                match name {
                    "crate" => path.clear(),
                    "super" => _ = path.pop(),
                    "self" | "" => {}
                    name => path.push(name),
                }
                path
            }));
        }
    }
    imports
}

/// The imports that violate the order, as "file -> module", and the number of imports that follow it.
fn check(directory: &str) -> (Vec<String>, usize) {
    let order = order(directory);
    let position = |path: &Path<'_>| order.iter().position(|module| path.first() == Some(&module.as_str()));
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (file, code) in sources(directory) {
        let module = module(&file);
        let Some(own) = position(&module) else {
            if !module.first().is_some_and(|name| UNORDERED.contains(name)) {
                wrong.push(format!("{file} does not belong to a module in the table"));
            }
            continue;
        };
        for import in imports(&module, &code, &[]) {
            match position(&import) {
                Some(other) if other > own => wrong.push(format!("{file} -> {}", import.join("::"))),
                Some(_) => right += 1,
                None => {}
            }
        }
    }
    (wrong, right)
}

/// The import cycles between the files of each top-level module. Tests and re-exports do not count.
fn cycles(sources: &[(String, String)]) -> BTreeSet<Vec<String>> {
    let sources = sources.iter().filter(|(file, _)| !file.contains("/tests"));
    let code = sources.map(|(file, code)| (module(file), code.split("#[cfg(test)]\nmod tests {")));
    let code: BTreeMap<_, _> = code.map(|(path, mut code)| (path, code.next().unwrap_or_default())).collect();
    let is_export = |line: &str| line.starts_with("pub") && line.contains(" use ");
    let mut edges = BTreeSet::new();
    for (module, text) in &code {
        let is_child = |other: &&Path<'_>| other.starts_with(module) && other.len() == module.len() + 1;
        let children: Vec<_> =
            code.keys().filter(is_child).filter_map(|child| child.last().copied()).collect();
        let statements = text.split(';').map(str::trim_start);
        for statement in statements.filter(|it| !it.lines().next().is_some_and(is_export)) {
            for import in imports(module, statement, &children) {
                let mut parts = (1..=import.len()).rev().filter_map(|length| import.get(..length));
                let to = parts.find_map(|part| Some(code.get_key_value(part)?.0));
                edges.extend(to.filter(|to| to.first() == module.first()).map(|to| (module, to)));
            }
        }
    }
    let reached = |from| {
        let (mut reached, mut new) = (BTreeSet::new(), vec![from]);
        while let Some(module) = new.pop() {
            let next = edges.iter().filter(|(from, _)| *from == module).map(|(_, to)| *to);
            new.extend(next.filter(|to| reached.insert(*to)));
        }
        reached
    };
    let cycle = |module| reached(module).into_iter().filter(|other| reached(other).contains(module));
    let names = |module| cycle(module).map(|path| path.join("::")).collect::<Vec<_>>();
    code.keys().map(names).filter(|cycle| cycle.len() > 1).collect()
}

#[test]
fn modules_import_only_those_above_them() {
    for (directory, modules, imports) in
        [("actor/src", 9, 80), ("capture/src", 7, 40), ("host/src", 9, 20), ("kubevirt/src", 8, 10)]
    {
        assert_eq!(
            order(directory).len(),
            modules,
            "docs/ARCHITECTURE.md lists a different number of modules in {directory}"
        );
        let (wrong, right) = check(directory);
        assert!(wrong.is_empty(), "{directory}: {wrong:#?}");
        assert!(right >= imports, "{directory}: only {right} imports were found");
    }
}

#[test]
fn files_of_a_module_do_not_form_import_cycles() {
    for directory in ["actor/src", "actor/libvirt/src", "capture/src", "host/src", "kubevirt/src"] {
        let mut wrong = cycles(&sources(directory));
        wrong.retain(|cycle| {
            let is_in = |module: &str| cycle.iter().all(|path| path.starts_with(module));
            !WITH_CYCLES.iter().any(|(module, _)| is_in(module))
        });
        assert!(wrong.is_empty(), "{directory}: these import each other: {wrong:#?}");
    }
}

/// Whether this code uses libvirt's bindings.
fn uses_libvirt(code: &str) -> bool {
    code.contains("virt::") && imports(&[], code, &["virt"]).iter().any(|path| path.first() == Some(&"virt"))
}

#[test]
fn only_the_libvirt_driver_uses_libvirt() {
    let users = |directory: &str| -> Vec<String> {
        let files = sources(directory).into_iter().filter(|(_, code)| uses_libvirt(code));
        files.map(|(file, _)| file).collect()
    };
    assert!(
        !users("actor/libvirt/src").is_empty(),
        "libvirt's bindings have a different name: this test checks nothing"
    );
    for directory in ["actor/src", "kubevirt/src"] {
        assert_eq!(users(directory), [""; 0], "{directory}: these use libvirt's bindings");
    }
}

#[test]
fn finds_a_cycle_through_super_paths_and_groups() {
    let files =
        [("x/y/mod.rs", "use super::{a, z::Z};"), ("x/z.rs", "fn f() { super::y::g() }"), ("x/a.rs", "")];
    let cycles = cycles(&files.map(|(file, code)| (file.to_owned(), code.to_owned())));
    assert_eq!(cycles, [vec!["x::y".to_owned(), "x::z".to_owned()]].into());
}
