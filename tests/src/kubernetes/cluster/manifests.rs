//! The objects that make an API server one of a cluster with KubeVirt.

use serde_json::{Value, json};

use super::virt_api::{ADDRESS, PORT};
use crate::host::project;
use crate::kubernetes::kind::Kind;

/// An object, and the path of its collection.
pub(super) type Manifest = (String, Value);

/// KubeVirt's kinds. Fields are not checked.
pub(super) fn definitions() -> Vec<Manifest> {
    [Kind::VirtualMachine, Kind::Instance].into_iter().map(definition).collect()
}

fn definition(kind: Kind) -> Manifest {
    let names = json!({
        "plural": kind.plural(), "singular": kind.name().to_lowercase(), "kind": kind.name(),
        "listKind": format!("{}List", kind.name()),
    });
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    let spec = json!({"group": kind.group(), "scope": "Namespaced", "names": names, "versions": [version]});
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.qualified()}, "spec": spec,
    });
    ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(), object)
}

/// Makes the API server forward requests for KubeVirt's subresources to the stand-in for virt-api.
///
/// `authority` is the certificate of the authority that issued the stand-in's certificate, in PEM.
pub(super) fn aggregation(authority: &str) -> Vec<Manifest> {
    let metadata = json!({"name": "virt-api", "namespace": "kubevirt"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"ports": [{"port": 443, "targetPort": PORT}]},
    });
    let subset = json!({"addresses": [{"ip": ADDRESS}], "ports": [{"port": PORT}]});
    let endpoints =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]});
    let group = "subresources.kubevirt.io";
    let registration = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": format!("v1.{group}")},
        "spec": {
            "group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "caBundle": base64(authority), "service": {"name": "virt-api", "namespace": "kubevirt", "port": 443},
        },
    });
    vec![
        ("/api/v1/namespaces/kubevirt/services".to_owned(), service),
        ("/api/v1/namespaces/kubevirt/endpoints".to_owned(), endpoints),
        ("/apis/apiregistration.k8s.io/v1/apiservices".to_owned(), registration),
    ]
}

/// The shipped namespace, service account, role and binding.
///
/// # Panics
/// If a manifest cannot be read.
pub(super) fn shipped() -> Vec<Manifest> {
    let mut manifests = Vec::new();
    for file in ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"] {
        let path = project().join("packaging/kubernetes/base").join(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("the manifest is YAML");
        for mut object in objects {
            let rbac = "/apis/rbac.authorization.k8s.io/v1";
            let collection = match object.get("kind").and_then(Value::as_str).unwrap_or_default() {
                "Namespace" => "/api/v1/namespaces".to_owned(),
                "ServiceAccount" => "/api/v1/namespaces/wakevirt/serviceaccounts".to_owned(),
                "ClusterRole" => format!("{rbac}/clusterroles"),
                "ClusterRoleBinding" => format!("{rbac}/clusterrolebindings"),
                kind => panic!("{}: the test does not know the kind {kind}", path.display()),
            };
            if collection.contains("/wakevirt/")
                && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
            {
                // kustomize sets the namespace.
                metadata.insert("namespace".to_owned(), json!("wakevirt"));
            }
            manifests.push((collection, object));
        }
    }
    manifests
}

/// Encodes text: RFC 4648, section 4.
fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
