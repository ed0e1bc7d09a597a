//! The manifests in packaging/kubernetes: what they grant, and that Kubernetes' schemas accept them.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};
use wakevirt_tests::host::{built_programs, project, succeed};
use wakevirt_tests::manifests::{directories, objects, only, program, render, render_at};

/// The capabilities of capture. The overlay `udp-only` leaves out the first one.
const CAPABILITIES: [&str; 5] = ["NET_RAW", "NET_BIND_SERVICE", "SETUID", "SETGID", "SETPCAP"];
/// The user ID of each container.
const USERS: [(&str, u64); 4] = [("bus", 10840), ("capture", 0), ("actor", 10842), ("metrics", 10843)];

fn rendered(directory: &str) -> Vec<Value> {
    objects(&render(directory))
}

fn pod(objects: &[Value]) -> &Value {
    &only(objects, "DaemonSet")["spec"]["template"]["spec"]
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let mut containers = pod["containers"].as_array().unwrap().iter();
    containers.find(|it| it["name"] == name).unwrap_or_else(|| panic!("there is no container {name}"))
}

/// The ConfigMap's file, and the name of the ConfigMap.
fn config<'a>(objects: &'a [Value], file: &str) -> (&'a str, &'a str) {
    let map = only(objects, "ConfigMap");
    (map["data"][file].as_str().unwrap(), map["metadata"]["name"].as_str().unwrap())
}

/// The rules of a Role, as they are in the manifest.
fn rules() -> Value {
    json!([
        {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"],
         "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["subresources.kubevirt.io"],
         "resources": ["virtualmachines/start", "virtualmachineinstances/unpause"], "verbs": ["update"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ])
}

/// Two kinds have no schema, and have tests of their own.
#[test]
fn schemas_accept_all_manifests() {
    for directory in directories() {
        let mut yaml = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        yaml.write_all(render(&directory).as_bytes()).unwrap();
        let validate = |path: &std::path::Path| {
            let output =
                Command::new(program("kubernetes-validate")).arg("--strict").arg(path).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        };
        let (success, text) = validate(yaml.path());
        assert!(success, "{directory}: {text}");
        for line in text.lines().filter(|line| line.contains("Couldn't find schema")) {
            assert!(
                line.contains("kind SecurityContextConstraints ") || line.contains("kind PodMonitor "),
                "{directory}: {line}"
            );
        }
        // An unknown field is an error.
        let wrong = render(&directory).replace("hostNetwork:", "hostNetworks:");
        std::fs::write(yaml.path(), wrong).unwrap();
        assert!(!validate(yaml.path()).0, "{directory}");
    }
}

#[test]
fn role_grants_only_what_the_actor_needs() {
    for directory in directories() {
        let objects = rendered(&directory);
        let (role, binding, mut expected) = match directory.as_str() {
            "overlays/per-namespace" => ("Role", "RoleBinding", rules()),
            _ => ("ClusterRole", "ClusterRoleBinding", rules()),
        };
        if directory == "overlays/named-virtual-machines" {
            expected[1]["resourceNames"] = json!(["windows", "database"]);
        }
        if directory == "overlays/namespace-selector" {
            let namespaces =
                json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]});
            expected.as_array_mut().unwrap().push(namespaces);
        }
        assert_eq!(only(&objects, role)["rules"], expected, "{directory}");
        let binding = only(&objects, binding);
        assert_eq!(binding["roleRef"]["kind"], role, "{directory}");
        assert_eq!(binding["roleRef"]["name"], only(&objects, role)["metadata"]["name"], "{directory}");
        let account = json!([{"kind": "ServiceAccount", "name": "wakevirt", "namespace": "wakevirt"}]);
        assert_eq!(binding["subjects"], account, "{directory}");
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds.iter().filter(|kind| kind.contains("Role")).count(), 2, "{directory}: {kinds:?}");
        let account = only(&objects, "ServiceAccount");
        assert_eq!(account["automountServiceAccountToken"], false, "{directory}");
    }
    let objects = rendered("overlays/per-namespace");
    let namespace = &only(&objects, "Role")["metadata"]["namespace"];
    assert_eq!(namespace, &only(&objects, "RoleBinding")["metadata"]["namespace"]);
    let (actor, _) = config(&objects, "actor.toml");
    assert!(actor.contains(&format!("\"kubevirt://?namespace={}\"", namespace.as_str().unwrap())), "{actor}");
}

#[test]
fn containers_have_only_the_privileges_that_they_need() {
    for directory in directories() {
        let objects = rendered(&directory);
        let pod = pod(&objects);
        assert_eq!(pod["hostNetwork"], true, "{directory}");
        for namespace in ["hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"] {
            assert!(pod[namespace].is_null(), "{directory}: {namespace}");
        }
        assert_eq!(pod["automountServiceAccountToken"], false, "{directory}");
        assert_eq!(pod["serviceAccountName"], "wakevirt", "{directory}");
        let security = json!({"fsGroup": 10842, "seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(pod["securityContext"], security, "{directory}");
        assert!(pod["initContainers"].is_null(), "{directory}");
        assert_eq!(pod["containers"].as_array().unwrap().len(), USERS.len(), "{directory}");
        for (name, user) in USERS {
            let expected = match name {
                "capture" => {
                    let capabilities = match directory.as_str() {
                        "overlays/udp-only" => &CAPABILITIES[1..],
                        _ => &CAPABILITIES,
                    };
                    json!({"runAsUser": 0, "runAsGroup": 0, "allowPrivilegeEscalation": false,
                           "readOnlyRootFilesystem": true,
                           "capabilities": {"drop": ["ALL"], "add": capabilities}})
                }
                _ => json!({"runAsUser": user, "runAsGroup": user, "runAsNonRoot": true,
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]}}),
            };
            assert_eq!(container(pod, name)["securityContext"], expected, "{directory}: {name}");
        }
    }
    let namespace = rendered("base");
    let labels = &only(&namespace, "Namespace")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
}

#[test]
fn one_container_holds_the_token_and_one_writes_the_socket() {
    for directory in directories() {
        let objects = rendered(&directory);
        let pod = pod(&objects);
        let volumes = pod["volumes"].as_array().unwrap();
        let kinds = ["emptyDir", "configMap", "secret", "projected"];
        for volume in volumes {
            assert!(kinds.iter().any(|kind| !volume[*kind].is_null()), "{directory}: {volume}");
        }
        let holders = |volume: &str, is_writable: bool| -> Vec<_> {
            let mounts = |name: &str| {
                let mounts = container(pod, name)["volumeMounts"].as_array().unwrap();
                mounts.iter().any(|it| it["name"] == volume && (it["readOnly"] != true || !is_writable))
            };
            USERS.map(|(name, _)| name).into_iter().filter(|name| mounts(name)).collect()
        };
        let tokens: Vec<_> =
            volumes.iter().filter(|it| it.to_string().contains("serviceAccountToken")).collect();
        assert_eq!(tokens.len(), 1, "{directory}");
        let name = tokens[0]["name"].as_str().unwrap();
        assert_eq!(holders(name, false), ["actor"], "{directory}");
        let token = &tokens[0]["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(*token, json!({"path": "token", "expirationSeconds": 3600}), "{directory}");

        assert_eq!(holders("bus", true), ["bus"], "{directory}");
        assert_eq!(holders("bus", false).len(), USERS.len(), "{directory}");
        assert_eq!(holders("state", false), ["actor"], "{directory}");
        assert_eq!(holders("passwords", false), ["actor"], "{directory}");
        assert!(holders("config", true).is_empty(), "{directory}");
        for (name, source) in [
            ("state", json!({"emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}})),
            (
                "passwords",
                json!({"secret": {"secretName": "wakevirt-passwords", "optional": true, "defaultMode": 0o440}}),
            ),
        ] {
            let mut volume = volumes.iter().find(|it| it["name"] == name).unwrap().clone();
            volume.as_object_mut().unwrap().remove("name");
            assert_eq!(volume, source, "{directory}");
        }
    }
}

#[test]
fn probes_and_clients_use_the_bus_of_the_pod() {
    for directory in directories() {
        let objects = rendered(&directory);
        let pod = pod(&objects);
        for (name, _) in USERS {
            let container = container(pod, name);
            let address =
                json!({"name": "DBUS_SYSTEM_BUS_ADDRESS", "value": "unix:path=/run/wakevirt-bus/socket"});
            assert!(container["env"].as_array().unwrap().contains(&address), "{directory}: {name}");
            for probe in ["readinessProbe", "livenessProbe"] {
                let probe = &container[probe];
                if probe.is_null() {
                    continue;
                }
                let command = probe["exec"]["command"].as_array().unwrap();
                assert_eq!(command[..2], ["/usr/bin/wakevirtctl", "status"], "{directory}: {name}");
                assert!(command[2].as_str().unwrap().starts_with("--check="), "{directory}: {name}");
                // The program itself waits 3 s.
                assert!(probe["timeoutSeconds"].as_u64().unwrap() > 3, "{directory}: {name}");
            }
            assert!(!container["readinessProbe"].is_null(), "{directory}: {name}");
            let resources = &container["resources"];
            assert!(!resources["requests"]["cpu"].is_null(), "{directory}: {name}");
            assert!(!resources["limits"]["memory"].is_null(), "{directory}: {name}");
        }
    }
}

/// The name of the ConfigMap changes with its content, so that a change replaces the pods.
#[test]
fn configuration_of_capture_is_valid_and_changes_roll_out() {
    let mut names = std::collections::BTreeMap::new();
    for directory in directories() {
        let objects = rendered(&directory);
        let (text, name) = config(&objects, "capture.toml");
        let volumes = pod(&objects)["volumes"].as_array().unwrap();
        assert!(volumes.contains(&json!({"name": "config", "configMap": {"name": name}})), "{directory}");
        let files = (config(&objects, "actor.toml").0.to_owned(), text.to_owned());
        assert_eq!(*names.entry(name.to_owned()).or_insert_with(|| files.clone()), files, "{directory}");

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut check = Command::new(built_programs().join("wakevirt-capture"));
        let output = succeed(check.arg("--check").arg("--config").arg(file.path()));
        assert_eq!(
            output.contains("mode = \"udp\""),
            directory == "overlays/udp-only",
            "{directory}: {output}"
        );
        let named = directory == "overlays/named-nodes";
        assert_eq!(output.contains("interfaces = [\"eth0\", \"br-lan\"]"), named, "{directory}: {output}");
    }
    assert_eq!(names.len(), 4, "base, udp-only, per-namespace, named-nodes: {names:?}");
}

#[test]
fn overlays_select_nodes() {
    let pod_of = |directory| pod(&rendered(directory)).clone();
    let linux = json!({"kubernetes.io/os": "linux"});
    assert_eq!((&pod_of("base")["nodeSelector"], &pod_of("base")["tolerations"]), (&linux, &Value::Null));
    let named = json!({"kubernetes.io/os": "linux", "wakevirt.org/segment": "office"});
    assert_eq!(pod_of("overlays/named-nodes")["nodeSelector"], named);
    let all = json!([{"effect": "NoSchedule", "operator": "Exists"}, {"effect": "NoExecute", "operator": "Exists"}]);
    assert_eq!(pod_of("overlays/all-nodes")["tolerations"], all);
}

/// The constraints allow exactly what the pod requests.
#[test]
fn openshift_allows_only_this_pod() {
    let objects = rendered("overlays/openshift");
    let expected = json!({
        "apiVersion": "security.openshift.io/v1",
        "kind": "SecurityContextConstraints",
        "metadata": {"name": "wakevirt"},
        "users": ["system:serviceaccount:wakevirt:wakevirt"],
        "groups": [],
        "allowHostNetwork": true,
        "allowHostPorts": true,
        "allowHostPID": false,
        "allowHostIPC": false,
        "allowHostDirVolumePlugin": false,
        "allowPrivilegedContainer": false,
        "allowPrivilegeEscalation": false,
        "defaultAllowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "requiredDropCapabilities": ["ALL"],
        "defaultAddCapabilities": [],
        "allowedCapabilities": CAPABILITIES,
        "allowedUnsafeSysctls": [],
        "runAsUser": {"type": "RunAsAny"},
        "seLinuxContext": {"type": "MustRunAs"},
        "fsGroup": {"type": "MustRunAs", "ranges": [{"min": 10842, "max": 10842}]},
        "supplementalGroups": {"type": "RunAsAny"},
        "seccompProfiles": ["runtime/default"],
        "volumes": ["configMap", "emptyDir", "projected", "secret"],
    });
    assert_eq!(*only(&objects, "SecurityContextConstraints"), expected);
    let pod = pod(&objects);
    let added = &container(pod, "capture")["securityContext"]["capabilities"]["add"];
    assert_eq!(*added, expected["allowedCapabilities"]);
    for volume in pod["volumes"].as_array().unwrap() {
        let kinds = expected["volumes"].as_array().unwrap();
        assert!(kinds.iter().any(|kind| !volume[kind.as_str().unwrap()].is_null()), "{volume}");
    }
}

#[test]
fn prometheus_finds_the_port_of_the_metrics() {
    let objects = rendered("overlays/monitoring");
    let monitor = only(&objects, "PodMonitor");
    let expected = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "wakevirt", "namespace": "wakevirt"},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "wakevirt"}},
            "podMetricsEndpoints": [{"port": "metrics", "interval": "30s"}],
        },
    });
    assert_eq!(*monitor, expected);
    let labels = &only(&objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/name"], "wakevirt");
    let port = json!([{"name": "metrics", "containerPort": 10842, "protocol": "TCP"}]);
    for (directory, address) in [("base", "127.0.0.1"), ("overlays/monitoring", "$(POD_IP)")] {
        let objects = rendered(directory);
        let metrics = container(pod(&objects), "metrics");
        assert_eq!(metrics["ports"], port, "{directory}");
        assert_eq!(metrics["command"][2], format!("--listen={address}:10842"), "{directory}");
    }
}

/// Components can be combined in a kustomization of one's own. Two of them change the ClusterRole, which `per-namespace`
/// removes.
#[test]
fn components_can_be_combined() {
    let directory = tempfile::tempdir_in(project().join("packaging/kubernetes")).unwrap();
    let components = directories()
        .into_iter()
        .filter(|it| it != "base" && !it.ends_with("machines") && !it.ends_with("selector"));
    let components: Vec<_> = components.map(|it| it.replace("overlays/", "../components/")).collect();
    let kustomization = format!("resources: [../base]\ncomponents: [{}]\n", components.join(", "));
    std::fs::write(directory.path().join("kustomization.yaml"), kustomization).unwrap();
    let objects = objects(&render_at(directory.path()));
    assert!(config(&objects, "actor.toml").0.contains("namespace="));
    for kind in ["Role", "SecurityContextConstraints", "PodMonitor"] {
        let _ = only(&objects, kind);
    }
}
