//! The manifests in `packaging/kubernetes`, as kubectl(1) renders them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host::{project, succeed};

/// Converts YAML documents to a JSON array.
const TO_JSON: &str = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";

/// The path of a program: `kubectl`, `kubernetes-validate` or `python`.
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
    let mut command = Command::new(program("python"));
    command.args(["-c", TO_JSON]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python runs");
    child.stdin.take().expect("it is piped").write_all(yaml.as_bytes()).expect("python reads its input");
    let output = child.wait_with_output().expect("python exits");
    assert!(output.status.success(), "not YAML: {yaml}");
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
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
