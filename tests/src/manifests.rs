//! The manifests in `packaging/kubernetes`, as kubectl(1) renders them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::host::{project, succeed};

/// The path of a program: `kubectl` or `kubernetes-validate`.
///
/// # Panics
/// If the programs cannot be installed.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let directory = succeed(&mut Command::new(project().join("scripts/kubernetes")));
    PathBuf::from(directory.trim()).join(name)
}

/// The directories below `packaging/kubernetes` that can be applied: `base`, and `overlays/NAME` for each overlay.
///
/// # Panics
/// If they cannot be listed.
#[must_use]
pub fn directories() -> Vec<String> {
    let overlays = project().join("packaging/kubernetes/overlays");
    let entries = std::fs::read_dir(&overlays).expect("the overlays can be listed");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an overlay").file_name();
    let mut names: Vec<_> = entries.map(name).map(|name| format!("overlays/{}", name.display())).collect();
    names.push("base".to_owned());
    names.sort();
    names
}

/// The YAML of a directory in [`directories`].
///
/// # Panics
/// If kubectl cannot render it.
#[must_use]
pub fn render(directory: &str) -> String {
    render_at(&project().join("packaging/kubernetes").join(directory))
}

/// The YAML of a directory with a `kustomization.yaml`.
///
/// # Panics
/// If kubectl cannot render it.
#[must_use]
pub fn render_at(directory: &Path) -> String {
    succeed(Command::new(program("kubectl")).arg("kustomize").arg(directory))
}

/// The objects in YAML documents.
///
/// # Panics
/// If the text is not YAML.
#[must_use]
pub fn objects(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("not YAML: {error}\n{yaml}"))
}

/// The only object of this kind.
///
/// # Panics
/// If there is none, or more than one.
#[must_use]
pub fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there is more than one {kind}");
    object
}
