//! A real API server accepts the manifests in packaging/kubernetes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};
use wakevirt_tests::host::Host;
use wakevirt_tests::kubernetes::cluster::{ADMIN_TOKEN, Cluster};
use wakevirt_tests::manifests::{directories, program, render};

/// Runs kubectl(1) as the administrator, with this standard input.
fn kubectl(host: &Host, arguments: &[&str], input: &str) -> String {
    let mut command = host.command(&program("kubectl").to_string_lossy());
    command.args(["--server=https://127.0.0.1:6443", "--certificate-authority=/run/wakevirt-cluster/ca.crt"]);
    command.args([&format!("--token={ADMIN_TOKEN}"), "--cache-dir=/run/kubectl"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {}\n{input}", text(output.stderr));
    text(output.stdout)
}

/// Registers a kind of OpenShift or of the Prometheus operator. Its fields are not checked.
fn register(cluster: &Cluster<'_>, group: &str, kind: &str, scope: &str) {
    let singular = kind.to_lowercase();
    let plural = format!("{}s", singular.trim_end_matches('s'));
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "singular": singular, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let reply = cluster.request("POST", path, &definition);
    assert_eq!(reply.status, 201, "{}", reply.text);
    let path = format!("/apis/{group}/v1/{plural}");
    let served = || cluster.request("GET", &path, &Value::Null).status == 200;
    wakevirt_tests::wait::until_true(&path, served);
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn api_server_accepts_all_manifests() {
    wakevirt_tests::privileged!();
    let host = Host::new();
    let cluster = Cluster::start(&host, &[]);
    cluster.install_kubeconfig(&host, "127.0.0.1");
    register(&cluster, "security.openshift.io", "SecurityContextConstraints", "Cluster");
    register(&cluster, "monitoring.coreos.com", "PodMonitor", "Namespaced");
    // The namespace of the component `per-namespace`.
    kubectl(&host, &["create", "namespace", "virtual-machines"], "");
    for directory in directories() {
        kubectl(&host, &["apply", "--filename=-"], &render(&directory));
        let path = "/apis/apps/v1/namespaces/wakevirt/daemonsets/wakevirt";
        let stored = cluster.request("GET", path, &Value::Null).json();
        let containers = stored.pointer("/spec/template/spec/containers").and_then(Value::as_array).unwrap();
        let added = |it: &Value| it.pointer("/securityContext/capabilities/add").cloned();
        let capabilities: Vec<_> = containers.iter().filter_map(added).collect();
        let mut expected = vec!["NET_RAW", "NET_BIND_SERVICE", "SETUID", "SETGID", "SETPCAP"];
        expected.retain(|name| directory != "overlays/udp-only" || *name != "NET_RAW");
        assert_eq!(capabilities, [json!(expected)], "{directory}");
        assert_eq!(containers.len(), 4, "{directory}");
        kubectl(&host, &["delete", "daemonset", "--namespace=wakevirt", "wakevirt"], "");
    }
}
