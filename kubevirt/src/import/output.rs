//! Writes a kustomization.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::agent::Patch;
use super::rules::Files;

/// The kustomization, with `notes` as comments at its start. `base` is the path of wakevirt's manifests.
#[must_use]
pub fn kustomization(base: &str, notes: &[String], files: &Files, patch: &Patch) -> String {
    let mut out = Yaml::default();
    out.line(0, "# Written by `wakevirt-kubevirt import` from the WolConfigs of kubevirt-wol.");
    for note in notes {
        out.line(0, &format!("# - {note}"));
    }
    out.line(0, "apiVersion: kustomize.config.k8s.io/v1beta1");
    out.line(0, "kind: Kustomization");
    out.line(0, &format!("resources: [{}]", json(&Value::from(base))));
    out.line(0, "configMapGenerator:");
    out.line(2, "- name: wakevirt");
    out.line(4, "behavior: merge");
    out.line(4, "literals:");
    out.file("actor.toml", &files.actor);
    if let Some(capture) = &files.capture {
        out.file("capture.toml", capture);
    }
    if !patch.is_empty() {
        out.line(0, "patches:");
        out.line(2, "- target: {kind: DaemonSet, name: wakevirt}");
        out.line(4, "patch: |-");
        out.patch(6, patch);
    }
    out.0
}

/// The lines of a YAML document.
#[derive(Default)]
struct Yaml(String);

impl Yaml {
    fn line(&mut self, indent: usize, content: &str) {
        if !content.is_empty() {
            self.0.extend(std::iter::repeat_n(' ', indent));
        }
        self.0.push_str(content);
        self.0.push('\n');
    }

    /// Writes a file of the ConfigMap, as a block scalar.
    fn file(&mut self, name: &str, content: &str) {
        self.line(6, "- |");
        format!("{name}={content}").lines().for_each(|line| self.line(8, line));
    }

    /// Writes a strategic merge patch: JSON values are YAML.
    fn patch(&mut self, indent: usize, patch: &Patch) {
        for line in ["apiVersion: apps/v1", "kind: DaemonSet", "metadata: {name: wakevirt}", "spec:"] {
            self.line(indent, line);
        }
        self.fields(indent + 2, &patch.daemon_set);
        self.line(indent + 2, "template:");
        self.line(indent + 4, "spec:");
        self.fields(indent + 6, &patch.pod);
        if !patch.containers.is_empty() {
            self.line(indent + 6, "containers:");
        }
        for (name, values) in &patch.containers {
            self.line(indent + 8, &format!("- name: {name}"));
            self.fields(indent + 10, values);
        }
    }

    fn fields(&mut self, indent: usize, values: &Map<String, Value>) {
        for (name, value) in values {
            self.line(indent, &format!("{name}: {}", json(value)));
        }
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
