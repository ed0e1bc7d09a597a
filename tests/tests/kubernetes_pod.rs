//! The pod of packaging/kubernetes: a magic packet starts a virtual machine, with exactly the privileges in the manifests.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use wakevirt_tests::host::{Host, PROGRAMS};
use wakevirt_tests::kubernetes::server::ApiServer;
use wakevirt_tests::kubernetes::server::fault::{Break, Gone};
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;
use wakevirt_tests::manifests::{directories, objects, only, render};
use wakevirt_tests::network::Peer;
use wakevirt_tests::pod::{Cluster, Pod};
use wakevirt_tests::prometheus::http_get;
use wakevirt_tests::{privileged, wait};

const PLAIN: &str = "52:54:00:01:02:03";
const SECURED: &str = "52:54:00:01:02:04";
/// Allows both virtual machines, one of them with a password, and others.
const RULES: &str = r#"connections = ["kubevirt://"]
[[allow]]
domain = "default/plain"
[[allow]]
domain = "default/secured"
secure-on = "/etc/wakevirt/passwords/secured"
[[allow]]
domain = "restarted/*"
"#;
/// CAP_NET_RAW: capabilities(7).
const NET_RAW: u64 = 1 << 13;

/// A node with a network, and an API server with two virtual machines.
struct Cell<'host> {
    host: &'host Host,
    lan: Peer<'host>,
    api: ApiServer,
}

impl<'host> Cell<'host> {
    fn new(host: &'host Host) -> Self {
        let lan = host.veth("lan0");
        host.sh("ip address add 192.0.2.1/24 dev lan0");
        lan.address("192.0.2.2/24");
        let api = ApiServer::start_on(host);
        for (name, mac) in [("plain", PLAIN), ("secured", SECURED)] {
            api.add(&VirtualMachine::new("default", name, mac).strategy("Manual"));
        }
        Self { host, lan, api }
    }

    /// Starts the pod of an overlay, with [`RULES`] in its ConfigMap, and waits until it is ready.
    fn start(&self, overlay: &str) -> Pod<'host> {
        let mut objects = objects(&render(overlay));
        let map = objects.iter_mut().find(|object| object["kind"] == "ConfigMap").unwrap();
        map["data"]["actor.toml"] = json!(RULES);
        let password = ("secured".to_owned(), "01:02:03:04:05:06".to_owned());
        let cluster = Cluster {
            address: self.api.url().trim_start_matches("https://").parse().unwrap(),
            authority: self.api.authority().to_owned(),
            token: self.api.token(),
            secrets: vec![("wakevirt-passwords".to_owned(), vec![password])],
        };
        let pod = Pod::start(self.host, &objects, cluster);
        wait_until_ready(&pod);
        pod
    }
}

fn wait_until_ready(pod: &Pod<'_>) {
    for name in pod.names() {
        wait::until_true(&format!("{name} to be ready"), || pod.probe(&name, "readinessProbe").0);
    }
}

/// Runs wakevirtctl in a container, and returns its output if it succeeds.
fn ctl(pod: &Pod<'_>, container: &str, arguments: &[&str]) -> Result<String, String> {
    let output = pod.exec(container, &[&["/usr/bin/wakevirtctl"], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Checks the users and the capabilities of all processes. `bounding` is the bounding set of capture's.
fn assert_privileges(pod: &Pod<'_>, bounding: u64) {
    for (name, user, programs) in
        [("bus", 10840, 1), ("capture", 10841, 2), ("actor", 10842, 1), ("metrics", 10843, 1)]
    {
        let processes = pod.processes(name);
        assert_eq!(processes.len(), programs, "{name}");
        for process in processes {
            assert_eq!(process.effective_uid(), user, "{name}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(process.capabilities(set), 0, "{name}: {set}");
            }
            let bounding = if name == "capture" { bounding } else { 0 };
            assert_eq!(process.capabilities("CapBnd"), bounding, "{name}");
            assert_eq!(process.field("NoNewPrivs"), "1", "{name}");
        }
    }
}

#[test]
fn packet_starts_a_virtual_machine() {
    privileged!();
    let host = Host::new();
    let cell = Cell::new(&host);
    let mut pod = cell.start("base");
    assert_privileges(&pod, NET_RAW);
    let explained = ctl(&pod, "actor", &["explain", PLAIN]).unwrap();
    assert!(explained.contains("default/plain"), "{explained}");

    cell.lan.etherwake(PLAIN, &[]);
    cell.api.wait_for("update", "virtualmachines/start", 1);
    // The password is in a Secret.
    cell.lan.etherwake(SECURED, &["-p", "01:02:03:04:05:07"]);
    cell.lan.etherwake(SECURED, &["-p", "01:02:03:04:05:06"]);
    cell.api.wait_for("update", "virtualmachines/start", 2);

    let status = ctl(&pod, "actor", &["status"]).unwrap();
    assert!(status.contains("kubevirt:// connected") && status.contains("2, 2 allowed"), "{status}");
    let history = ctl(&pod, "actor", &["--json", "history"]).unwrap();
    assert!(history.contains("bad-password"), "{history}");

    let (_, metrics) = http_get(&host, "127.0.0.1:10842", "/metrics", "Accept: */*");
    for line in
        ["wakevirt_domains 2", "wakevirt_configuration_valid 1", "wakevirt_capture_mode{mode=\"raw\"} 1"]
    {
        assert!(metrics.contains(&format!("\n{line}\n")), "{metrics}");
    }
    for name in ["bus", "capture", "actor"] {
        assert_eq!(pod.probe(name, "livenessProbe"), (true, String::new()), "{name}");
    }
    for name in pod.names() {
        let requested = pod.spec(&name)["resources"]["requests"]["memory"].as_str().unwrap();
        let requested: u64 = requested.strip_suffix("Mi").unwrap().parse().unwrap();
        assert!(pod.memory(&name) < requested << 20, "{name} uses {} bytes", pod.memory(&name));
    }
    // kubelet's signal. A container that ignores it would delay a rollout.
    for name in pod.names() {
        pod.stop_container(&name, Signal::SIGTERM);
    }
}

#[test]
fn datagram_starts_a_virtual_machine_without_packet_sockets() {
    privileged!();
    let host = Host::new();
    let cell = Cell::new(&host);
    let pod = cell.start("overlays/udp-only");
    assert_privileges(&pod, 0);
    cell.lan.wakeonlan(PLAIN, "192.0.2.255", &[]);
    cell.api.wait_for("update", "virtualmachines/start", 1);
    let status = ctl(&pod, "actor", &["status"]).unwrap();
    assert!(status.contains(", mode udp"), "{status}");
}

#[test]
fn only_the_actor_can_wake_and_write_to_the_bus() {
    privileged!();
    let host = Host::new();
    let cell = Cell::new(&host);
    let pod = cell.start("base");
    // Root in the container of capture has no more permissions than other users.
    for container in ["bus", "capture", "metrics"] {
        for arguments in
            [["wake", "default/plain"].as_slice(), &["list"], &["history"], &["history", "--packets"]]
        {
            let error = ctl(&pod, container, arguments).unwrap_err();
            assert!(error.contains("not allowed"), "{container} {arguments:?}: {error}");
        }
        assert!(
            ctl(&pod, container, &["metrics"]).unwrap().contains("\nwakevirt_domains 2\n"),
            "{container}"
        );
    }
    assert_eq!(cell.api.count("update", "virtualmachines/start"), 0);
    ctl(&pod, "actor", &["wake", "default/plain"]).unwrap();
    cell.api.wait_for("update", "virtualmachines/start", 1);

    // The token is in one container, and no container can write outside its volumes.
    for container in pod.names() {
        let mounts = pod.mounts(&container);
        let at = |path: &str| mounts.iter().find(|mount| mount.point == Path::new(path));
        let token = at("/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(token.is_some(), container == "actor", "{container}");
        assert!(at("/").unwrap().has("ro"), "{container}");
        assert_eq!(at("/run/wakevirt-bus").unwrap().has("rw"), container == "bus", "{container}");
    }
}

/// kubelet starts a container again after a failure. A packet that arrives without an actor is replayed.
#[test]
fn containers_can_restart() {
    privileged!();
    let host = Host::new();
    let cell = Cell::new(&host);
    let mut pod = cell.start("base");
    for (count, container) in (1..).zip(["bus", "capture", "actor"]) {
        // Another virtual machine each time, because of the cool-down.
        let (name, mac) = (format!("vm{count}"), format!("52:54:00:00:00:{count:02}"));
        cell.api.add(&VirtualMachine::new("restarted", &name, &mac).strategy("Manual"));
        let is_known = || ctl(&pod, "actor", &["list"]).is_ok_and(|list| list.contains(&mac));
        wait::until_true("the virtual machine", is_known);
        pod.stop_container(container, Signal::SIGKILL);
        if container == "actor" {
            cell.lan.etherwake(&mac, &[]);
        }
        pod.start_container(container);
        wait_until_ready(&pod);
        if container != "actor" {
            cell.lan.etherwake(&mac, &[]);
        }
        cell.api.wait_for("update", "virtualmachines/start", count);
    }
}

/// Without one of the capabilities, capture reports an error, or does not receive all packets.
#[test]
fn capture_needs_all_its_capabilities() {
    privileged!();
    let host = Host::new();
    let cell = Cell::new(&host);
    let mut pod = cell.start("base");
    for (capability, message) in [
        ("NET_RAW", "capture receives UDP only: the service does not have CAP_NET_RAW"),
        ("NET_BIND_SERVICE", "cannot listen on UDP 0.0.0.0:9: Permission denied"),
        ("SETUID", "cannot set the user: EPERM"),
        ("SETGID", "cannot set the groups: EPERM"),
        ("SETPCAP", "cannot narrow the bounding set"),
    ] {
        let all = pod.spec("capture")["securityContext"]["capabilities"]["add"].clone();
        let all: Vec<_> = all.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let others: Vec<_> = all.iter().copied().filter(|name| *name != capability).collect();
        assert_eq!(others.len() + 1, all.len(), "{capability}");
        pod.restart_with("capture", &others);
        let _ = pod.log("capture").wait_for(message);
        pod.restart_with("capture", &all);
        wait_until_ready(&pod);
    }
}

#[test]
fn configuration_of_the_actor_is_valid() {
    privileged!();
    let host = Host::new();
    for directory in directories() {
        let objects = objects(&render(&directory));
        let text = only(&objects, "ConfigMap")["data"]["actor.toml"].as_str().unwrap();
        host.write("/etc/wakevirt/actor.toml", text);
        let printed = host.sh(&format!("{PROGRAMS}/wakevirt-kubevirt --check"));
        assert!(printed.contains("connections = [\"kubevirt://"), "{directory}: {printed}");
    }
}

#[test]
fn doctor_names_missing_addresses_and_permissions() {
    privileged!();
    let host = Host::new();
    let cell = Cell::new(&host);
    let pod = cell.start("base");
    let doctor = || {
        let output = pod.exec("actor", &["/usr/bin/wakevirtctl", "--json", "doctor", "--no-test"]);
        String::from_utf8(output.stdout).unwrap()
    };
    cell.api.add(&VirtualMachine::new("restarted", "roaming", ""));
    for name in ["twin1", "twin2"] {
        cell.api.add(&VirtualMachine::new("restarted", name, "52:54:00:01:02:05"));
    }
    let is_known = || ctl(&pod, "actor", &["list"]).is_ok_and(|list| list.contains("twin2"));
    wait::until_true("the virtual machines", is_known);
    let found = doctor();
    for part in [
        "\\\"restarted/roaming\\\" has no fixed MAC address",
        "\\\"restarted/twin1\\\", \\\"restarted/twin2\\\" have the same address",
        "Kubernetes runs the services, in containers",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    for command in ["virsh", "systemctl"] {
        assert!(!found.contains(command), "{command}: {found}");
    }
    cell.api.rbac(|rbac| rbac.remove("list", "virtualmachines"));
    cell.api.expire(Gone::Status);
    cell.api.break_watches(Break::Between);
    wait::until_true("the missing permission", || doctor().contains("the verb list for virtualmachines"));
}
