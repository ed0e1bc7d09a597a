//! Writes a kustomization.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::agent::Patch;
use super::rules::Files;

/// The kustomization, with `notes` as comments at its start. `base` is the path of wakevirt's manifests.
#[must_use]
pub fn kustomization(base: &str, notes: &[String], files: &Files, patch: &Patch) -> String {
    let mut text =
        "# Written by `wakevirt-kubevirt import` from the WolConfigs of kubevirt-wol.\n".to_owned();
    // Writing to a string cannot fail.
    for note in notes {
        let _ = writeln!(text, "# - {note}");
    }
    let _ = write!(
        text,
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{}]\nconfigMapGenerator:\n  \
         - name: wakevirt\n    behavior: merge\n    literals:\n",
        json(&Value::from(base))
    );
    literal(&mut text, "actor.toml", &files.actor);
    if let Some(capture) = &files.capture {
        literal(&mut text, "capture.toml", capture);
    }
    if !patch.is_empty() {
        text.push_str("patches:\n  - target: {kind: DaemonSet, name: wakevirt}\n    patch: |-\n");
        indented(&mut text, 6, &strategic_merge(patch));
    }
    text
}

/// Writes a file of the ConfigMap, as a block scalar.
fn literal(text: &mut String, name: &str, content: &str) {
    text.push_str("      - |\n");
    indented(text, 8, &format!("{name}={content}"));
}

fn indented(text: &mut String, width: usize, content: &str) {
    for line in content.lines() {
        let width = if line.is_empty() { 0 } else { width };
        let _ = writeln!(text, "{:width$}{line}", "");
    }
}

/// Writes the patch.
fn strategic_merge(patch: &Patch) -> String {
    let mut text = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata:\n  name: wakevirt\nspec:\n".to_owned();
    fields(&mut text, 2, &patch.daemon_set);
    text.push_str("  template:\n    spec:\n");
    fields(&mut text, 6, &patch.pod);
    if !patch.containers.is_empty() {
        text.push_str("      containers:\n");
    }
    for (name, values) in &patch.containers {
        let _ = writeln!(text, "        - name: {name}");
        fields(&mut text, 10, values);
    }
    text
}

fn fields(text: &mut String, width: usize, values: &Map<String, Value>) {
    for (name, value) in values {
        let _ = writeln!(text, "{:width$}{name}: {}", "", json(value));
    }
}

/// Writes a value as JSON, which is also YAML. Escapes what YAML would treat as a line break, or rejects.
fn json(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            text.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(text, "\\u{unit:04x}");
        }
    }
    text
}
