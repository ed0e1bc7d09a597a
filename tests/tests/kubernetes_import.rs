//! `wakevirt-kubevirt import`: the services accept the result, and kubectl(1) applies it to the manifests.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::Parser as _;
use serde_json::{Value, json};
use wakevirt_actor::Options;
use wakevirt_actor::config::Config;
use wakevirt_actor::hypervisor::Driver as _;
use wakevirt_kubevirt::KubeVirt;
use wakevirt_tests::host::{built_programs, project, succeed};
use wakevirt_tests::manifests::{objects, only, render_at};

/// Runs the program with this input.
fn import(input: &str) -> Output {
    let mut command = Command::new(built_programs().join("wakevirt-kubevirt"));
    command.args(["import", "--base", "../base"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn config(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "wol.pillon.org/v1beta1", "kind": "WolConfig", "metadata": {"name": name}, "spec": spec})
}

/// The objects that kubectl creates from the program's output, and the program's messages.
fn rendered(configs: &[Value]) -> (Vec<Value>, String) {
    let output = import(&json!({"apiVersion": "v1", "kind": "List", "items": configs}).to_string());
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{messages}");
    let directory = tempfile::tempdir_in(project().join("packaging/kubernetes")).unwrap();
    std::fs::write(directory.path().join("kustomization.yaml"), output.stdout).unwrap();
    (objects(&render_at(directory.path())), messages)
}

/// A copy of this file of the ConfigMap.
fn file(objects: &[Value], name: &str) -> tempfile::NamedTempFile {
    let text = only(objects, "ConfigMap")["data"][name].as_str().unwrap();
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(copy.path(), text).unwrap();
    copy
}

/// The actor's configuration, as `--check` prints it.
fn actor_config(objects: &[Value]) -> String {
    let copy = file(objects, "actor.toml");
    let options = Options::parse_from([Path::new("wakevirt-kubevirt"), Path::new("--config"), copy.path()]);
    Config::load(&options, &KubeVirt::PROGRAM).unwrap().to_string()
}

#[test]
fn kubectl_and_the_services_accept_the_result() {
    let selector = json!({
        "matchLabels": {"wol.pillon.org/enabled": "true"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
    });
    let agent = json!({
        "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "resources": {"limits": {"memory": "128Mi"}}, "priorityClassName": "high",
        "updateStrategy": {"type": "OnDelete"}, "imagePullPolicy": "Always",
    });
    let mapping = json!({"macAddress": "52:54:00:AB:cd:ef", "vmName": "vm-2", "namespace": "production"});
    let (objects, messages) = rendered(&[
        config("all", &json!({"namespaceSelectors": ["default"], "cacheTTL": 300, "agent": agent})),
        config(
            "labels",
            &json!({"discoveryMode": "LabelSelector", "vmSelector": selector, "wolPorts": [9, 4000], "agent": agent}),
        ),
        config("list", &json!({"discoveryMode": "Explicit", "explicitMappings": [mapping], "agent": agent})),
    ]);
    assert!(messages.contains("cacheTTL: not needed."), "{messages}");

    let actor = actor_config(&objects);
    for part in [
        "connections = [\"kubevirt://\"]",
        "[[allow]]\ndomain = \"default/*\"",
        "[[allow]]\ndomain = \"*/*\"\nlabels = ",
        "\"wol.pillon.org/enabled\"",
        "[[allow]]\ndomain = \"production/vm-2\"",
        "[[alias]]\nmac = \"52:54:00:ab:cd:ef\"\ndomain = \"production/vm-2\"",
    ] {
        assert!(actor.contains(part), "{part}: {actor}");
    }
    let copy = file(&objects, "capture.toml");
    let mut check = Command::new(built_programs().join("wakevirt-capture"));
    let capture = succeed(check.arg("--check").arg("--config").arg(copy.path()));
    assert!(capture.contains("ports = [0, 7, 9, 4000]"), "{capture}");
    assert!(capture.contains("\"0.0.0.0:4000\""), "{capture}");

    let spec = &only(&objects, "DaemonSet")["spec"];
    assert_eq!(spec["updateStrategy"]["type"], "OnDelete");
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux", "zone": "a"}));
    assert_eq!(pod["tolerations"], json!([{"key": "k", "operator": "Exists"}]));
    assert_eq!(pod["priorityClassName"], "high");
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 4, "the patch adds none");
    for container in containers {
        assert_eq!(container["imagePullPolicy"], "Always", "{container}");
        assert!(container["image"].is_string(), "{container}");
    }
    let actor = containers.iter().find(|it| it["name"] == "actor").unwrap();
    assert_eq!(actor["resources"]["limits"]["memory"], "128Mi");
}

/// A selector that a rule cannot express becomes a key for all rules.
#[test]
fn the_actor_accepts_the_selector_for_all_rules() {
    let expressions = json!([
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "zone", "operator": "NotIn", "values": ["c"]},
        {"key": "backup", "operator": "Exists"},
        {"key": "internal", "operator": "DoesNotExist"},
    ]);
    let spec = json!({"discoveryMode": "LabelSelector", "vmSelector": {"matchExpressions": expressions}});
    let (objects, _) = rendered(&[config("default", &spec)]);
    let actor = actor_config(&objects);
    let selector = "vm-selector = \"tier in (a,b),zone notin (c),backup,!internal\"";
    assert!(actor.contains(selector), "{actor}");
    let text = only(&objects, "ConfigMap")["data"]["capture.toml"].as_str().unwrap();
    assert!(!text.contains("ports ="), "the base's file remains: {text}");
}

#[test]
fn says_what_is_wrong_with_the_input() {
    let output = import("{\"kind\": \"Pod\", \"apiVersion\": \"v1\"}");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.starts_with("wakevirt-kubevirt: the input contains an object of the kind \"Pod\""),
        "{message}"
    );
}
