//! The configuration of a container for an OCI runtime:
//! <https://github.com/opencontainers/runtime-spec/blob/main/config.md>.

use serde_json::{Value, json};

use super::Cluster;
use super::volumes::Volumes;

/// Translates a container of a pod, as containerd does.
pub(super) fn config(pod: &Value, container: &Value, volumes: &Volumes, cluster: &Cluster) -> Value {
    let security = &container["securityContext"];
    // Not in the manifests, and not translated here.
    for unknown in ["privileged", "procMount", "seLinuxOptions", "seccompProfile"] {
        assert!(security[unknown].is_null(), "{unknown}");
    }
    let capabilities = capabilities(&security["capabilities"]);
    let environment = environment(container, cluster);
    let mut mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]);
    let mounts = mounts.as_array_mut().expect("an array");
    mounts.extend(container["volumeMounts"].as_array().into_iter().flatten().map(|it| mount(it, volumes)));
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "pid"}), json!({"type": "ipc"})];
    if pod["hostNetwork"] != true {
        namespaces.push(json!({"type": "network"}));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {
                "uid": security["runAsUser"],
                "gid": security["runAsGroup"],
                "additionalGids": [pod["securityContext"]["fsGroup"]],
            },
            "args": arguments(container, &environment),
            "env": environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
        },
        "root": {"path": "rootfs", "readonly": security["readOnlyRootFilesystem"] == true},
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                            "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The capabilities that remain. The manifests drop all, so the runtime's defaults do not matter.
fn capabilities(capabilities: &Value) -> Vec<String> {
    assert_eq!(capabilities["drop"], json!(["ALL"]));
    let added = capabilities["add"].as_array().into_iter().flatten();
    added.map(|name| format!("CAP_{}", name.as_str().expect("a name"))).collect()
}

fn environment(container: &Value, cluster: &Cluster) -> Vec<(String, String)> {
    let mut environment = vec![
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), cluster.address.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), cluster.address.port().to_string()),
    ];
    for variable in container["env"].as_array().into_iter().flatten() {
        let value =
            match (variable["value"].as_str(), variable["valueFrom"]["fieldRef"]["fieldPath"].as_str()) {
                (Some(value), _) => value,
                (None, Some("spec.nodeName")) => "node1",
                (None, Some("status.podIP")) => "127.0.0.1",
                (None, _) => panic!("a variable without a value: {variable}"),
            };
        environment.push((variable["name"].as_str().expect("a name").to_owned(), value.to_owned()));
    }
    environment
}

/// The command, with the values of variables.
fn arguments(container: &Value, environment: &[(String, String)]) -> Vec<String> {
    let both = [&container["command"], &container["args"]].into_iter().filter_map(Value::as_array).flatten();
    let expand = |argument: &Value| {
        let argument = argument.as_str().expect("text").to_owned();
        environment.iter().fold(argument, |text, (name, value)| text.replace(&format!("$({name})"), value))
    };
    both.map(expand).collect()
}

fn mount(mount: &Value, volumes: &Volumes) -> Value {
    let name = mount["name"].as_str().expect("a name");
    let access = if mount["readOnly"] == true { "ro" } else { "rw" };
    json!({
        "destination": mount["mountPath"],
        "type": "bind",
        "source": volumes.path(name, mount["subPath"].as_str()),
        "options": ["rbind", "rprivate", access],
    })
}
