//! `make sbom` lists the components of each program.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wakevirt_tests::host::{project, succeed};

/// The programs of this workspace and their packages, without those of the tests.
fn programs() -> BTreeMap<String, String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(project()).args(["metadata", "--no-deps", "--format-version=1", "--locked"]);
    let metadata: Value = serde_json::from_str(&succeed(&mut command)).unwrap();
    let mut programs = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for target in package["targets"].as_array().unwrap() {
            if target["kind"][0] == "bin" && name != "wakevirt-tests" {
                programs.insert(target["name"].as_str().unwrap().to_owned(), name.to_owned());
            }
        }
    }
    programs
}

/// The names and versions of the crates on which this package and its build scripts depend.
fn crates(package: &str) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(project()).args(["tree", "--package", package, "--edges=normal,build"]);
    let tree = succeed(command.args(["--prefix=none", "--format={p}", "--locked"]));
    // Such as `zbus_macros v5.0.0 (proc-macro)`. The first line is the package itself.
    tree.lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut words = line.split(' ');
            format!("{} {}", words.next().unwrap(), words.next().unwrap().trim_start_matches('v'))
        })
        .collect()
}

/// Runs `scripts/sbom`, and returns the content of each file by the name of its program.
fn sbom() -> BTreeMap<String, String> {
    let paths = succeed(&mut Command::new(project().join("scripts/sbom")));
    let program = |path: &str| {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        name.strip_suffix(".cdx.json").unwrap().to_owned()
    };
    paths.lines().map(|path| (program(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
#[ignore = "make check-anywhere"]
fn an_sbom_lists_all_crates_of_each_program() {
    let (programs, files) = (programs(), sbom());
    assert_eq!(files.keys().collect::<Vec<_>>(), programs.keys().collect::<Vec<_>>());
    assert!(programs.len() >= 9, "{programs:?}");
    let here = project().to_str().unwrap();
    for (program, text) in &files {
        assert!(!text.contains(here), "the SBOM of {program} contains a path on this machine");
        let sbom: Value = serde_json::from_str(text).unwrap();
        assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        // Checks a component, and returns its name and version.
        let check = |component: &Value| {
            let text =
                |key: &str| component[key].as_str().unwrap_or_else(|| panic!("{program}: {component}"));
            let licence = component["licenses"][0]["expression"].as_str();
            assert!(licence.is_some_and(|it| !it.is_empty()), "{program}: {component}");
            let own = text("bom-ref").starts_with("path+file:///usr/src/wakevirt/");
            assert!(own || component["hashes"][0]["content"].is_string(), "{program}: {component}");
            format!("{} {}", text("name"), text("version"))
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(check(&sbom["metadata"]["component"]), format!("{program} {version}"));
        let listed: BTreeSet<_> = sbom["components"].as_array().unwrap().iter().map(check).collect();
        assert_eq!(listed, crates(&programs[program]), "{program}");
        let tool = &sbom["metadata"]["tools"][0];
        println!("\ntried: {} {}", tool["name"].as_str().unwrap(), tool["version"].as_str().unwrap());
    }
    assert_eq!(sbom(), files, "a second run differs");
}
