//! The demonstration for KubeVirt: one packet reaches two nodes of a cluster, and its VM starts once.
//!
//! The API server and etcd are real. A stand-in for KubeVirt runs no guest.

use std::process::ExitCode;

use serde_json::Value;

use crate::demo::events::{Event, Events};
use crate::demo::screen::Screen;
use crate::demo::{COPIES, TIMEOUT, run_with};
use crate::host::{Host, succeed};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::kind::Kind;
use crate::kubernetes::node::Node;
use crate::kubernetes::virt::machine::VirtualMachine;
use crate::wait;

const NAMESPACE: &str = "office";
const DESKTOP: (&str, &str) = ("desktop", "52:54:00:00:00:01");
const SECRET: (&str, &str) = ("secret", "52:54:00:00:00:02");
const RULES: &str = "[[allow]]\ndomain = \"office/desktop\"\n";
/// The address of the API server on the bridge.
const ADDRESS: &str = "192.168.77.1";

/// Runs the demonstration. Its last line says whether the VM is running.
#[must_use]
pub fn run() -> ExitCode {
    run_with(
        &["bash", "dbus-daemon", "etherwake", "gdbus", "ip", "nsenter", "rsync", "setpriv", "unshare"],
        show,
    )
}

fn show(screen: Screen) {
    screen.title("wakevirt on Kubernetes: one packet reaches two nodes, and its VM starts once");
    screen.heading("Set-up, in separate namespaces");
    let (switch, hosts) = (Host::new(), [Host::new(), Host::new()]);
    switch.bridge("br0");
    switch.sh(&format!("ip address add {ADDRESS}/24 dev br0"));
    let lan = switch.veth("port0");
    switch.sh("ip link set port0 master br0");
    let cluster = Cluster::start(&switch, &[ADDRESS]);
    cluster.add_namespace(NAMESPACE);
    for (name, mac) in [DESKTOP, SECRET] {
        cluster.add(&VirtualMachine::new(NAMESPACE, name, mac));
    }
    screen.item("network", "a bridge, which connects the nodes, the API server and a machine on the network");
    screen.item("API server", "kube-apiserver 1.20 with etcd and the shipped role");
    screen.item("KubeVirt", "a stand-in behind the aggregation layer; it runs no guest");
    for (number, host) in hosts.iter().enumerate() {
        let port = format!("node{number}");
        switch.cable(&port, host, "eth0");
        switch.sh(&format!("ip link set {port} master br0"));
        host.sh(&format!("ip address add 192.168.77.{}/24 dev eth0", 10 + number));
        cluster.install_kubeconfig(host, &format!("{ADDRESS}:6443"));
    }
    let nodes = hosts.each_ref().map(|host| Node::start(host, RULES));
    screen
        .item("two nodes", "each with capture, a private bus, and wakevirt-kubevirt with a token of its own");
    let demo = Demonstration { screen, cluster: &cluster, events: hosts.each_ref().map(Events::subscribe) };

    screen.heading("Packets from the machine on the network, as each node reports them");
    screen.packet("etherwake: an Ethernet frame to all stations, for desktop");
    lan.etherwake(DESKTOP.1, &["-b"]);
    let started = demo.outcomes(DESKTOP.0, &["started", "already-running"]);
    assert!(started.iter().any(|outcome| outcome == "started"), "no node has started the VM: {started:?}");
    screen.packet("etherwake: the same for secret, which no rule allows");
    lan.etherwake(SECRET.1, &["-b"]);
    demo.outcomes(SECRET.0, &["not-allowed"]);

    screen.heading("What the cluster reports");
    demo.show_cluster();
    screen.heading("Metrics of the first node");
    let [host, _] = &hosts;
    let metrics = succeed(host.command(&format!("{}/wakevirtctl", crate::host::PROGRAMS)).arg("metrics"));
    let wanted = ["wakevirt_domains", "wakevirt_decisions_total", "wakevirt_last_sync"];
    for line in metrics.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
        if !line.ends_with(" 0") {
            screen.note(line);
        }
    }
    let started =
        metrics.lines().any(|line| line.starts_with("wakevirt_decisions_total") && !line.ends_with(" 0"));
    assert!(started, "the metrics do not contain the decisions:\n{metrics}");
    drop(nodes);
    screen.success("The VM is running: both nodes received the packet, and KubeVirt accepted one start.");
}

/// Shows what the services and the cluster report.
struct Demonstration<'a> {
    screen: Screen,
    cluster: &'a Cluster<'a>,
    events: [Events; 2],
}

impl Demonstration<'_> {
    /// Shows the events of each node until its decision on the machine, which must be one of these.
    fn outcomes(&self, name: &str, expected: &[&str]) -> Vec<String> {
        let mut outcomes = Vec::new();
        for (number, events) in self.events.iter().enumerate() {
            self.screen.note(&format!("node {}", number + 1));
            let mut received = None;
            while let Some(event) = events.next(if outcomes.len() > number { COPIES } else { TIMEOUT }) {
                match &event {
                    Event::Packet { boottime, .. } => received = received.or(*boottime),
                    Event::Decision { domain, outcome, .. } => {
                        assert_eq!(*domain, format!("{NAMESPACE}/{name}"), "the decision");
                        assert!(expected.contains(&outcome.as_str()), "the outcome is {outcome}");
                        outcomes.push(outcome.clone());
                    }
                }
                self.screen.event(&event, received);
            }
            assert!(outcomes.len() > number, "node {} has not decided on {name}", number + 1);
        }
        outcomes
    }

    fn show_cluster(&self) {
        for call in self.cluster.forwarded() {
            let answer = if call.status == 202 { "accepted".to_owned() } else { call.status.to_string() };
            self.screen.item("call", &format!("PUT {} by {}: {answer}", call.operation, call.user));
        }
        assert_eq!(self.cluster.starts(DESKTOP.0), 1, "the number of starts");
        let vm = self.cluster.read(Kind::VirtualMachine, NAMESPACE, DESKTOP.0).unwrap_or_default();
        let strategy = vm.pointer("/spec/runStrategy").and_then(Value::as_str).unwrap_or_default();
        let phase = self.cluster.phase(NAMESPACE, DESKTOP.0).unwrap_or_default();
        self.screen
            .item("desktop", &format!("VirtualMachineInstance {phase}, run strategy Halted → {strategy}"));
        assert_eq!(phase, "Running", "the phase of the VirtualMachineInstance");
        // The nodes write Events after their decisions.
        let events =
            wait::until("an Event", || Some(self.cluster.list(Kind::Event)).filter(|list| !list.is_empty()));
        for event in events {
            let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
            self.screen.item(
                "Event",
                &format!("{} of {}: {}", text("/reason"), text("/regarding/name"), text("/note")),
            );
        }
    }
}
