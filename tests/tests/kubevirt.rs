//! The actor for KubeVirt on a node, with an API server in this process.

use serde_json::json;
use wakevirt_tests::host::{Host, PROGRAMS, succeed};
use wakevirt_tests::kubernetes::kind::Kind;
use wakevirt_tests::kubernetes::node::Node;
use wakevirt_tests::kubernetes::server::ApiServer;
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::privileged;

const MAC: &str = "52:54:00:77:00:01";
/// The directory with the kubeconfig.
const DIRECTORY: &str = "/run/wakevirt-cluster";
/// The memory that only the actor uses, with 10,000 virtual machines, in kB.
const MAX_MEMORY: u64 = 20_000;

fn start(host: &Host) -> ApiServer {
    let api = ApiServer::start_on(host);
    api.write_kubeconfig(&host.path(DIRECTORY), DIRECTORY);
    api
}

fn ctl(host: &Host, arguments: &[&str]) -> String {
    succeed(host.command(&format!("{PROGRAMS}/wakevirtctl")).args(arguments))
}

#[test]
fn a_packet_starts_a_virtual_machine() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("port0");
    let api = start(&host);
    api.add(&VirtualMachine::new("n", "a", MAC));
    // A copy of the address in another namespace does not count.
    api.add(&VirtualMachine::new("tenant", "copy", MAC));
    let rules = "[[allow]]\ndomain = \"n/a\"\n[[allow]]\ndomain = \"tenant/*\"\n";
    let node = Node::start(&host, rules);
    assert!(ctl(&host, &["list"]).contains("n/a"));
    assert!(ctl(&host, &["explain", MAC]).contains("n/a"));
    lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &magic(MAC, &[])));
    let (outcome, line) = node.outcome("n/a", 1);
    assert_eq!(outcome, "started", "{line}");
    assert!(line.contains("changed runStrategy Halted to runStrategy Always"), "{line}");
    assert_eq!(api.read(Kind::VirtualMachine, "n", "a").unwrap()["spec"]["runStrategy"], "Always");
    api.wait_for("create", "events", 1);
    let event = api.list(Kind::Event).remove(0);
    assert_eq!((&event["reason"], &event["regarding"]["name"]), (&json!("Started"), &json!("a")));
    assert!(ctl(&host, &["wake", "n/a"]).contains("already-running"));
    assert!(api.read(Kind::Instance, "tenant", "copy").is_none());
}

#[test]
fn ten_thousand_virtual_machines_fit_into_20_megabytes() {
    privileged!();
    let host = Host::new();
    let api = start(&host);
    for number in 0..10_000 {
        let mac = format!("52:54:01:00:{:02x}:{:02x}", number / 256, number % 256);
        let vm = VirtualMachine::new(&format!("n{}", number % 50), &format!("vm{number}"), &mac);
        let vm = vm.label("app", "database").label("app.kubernetes.io/part-of", "shop").of_size(4400);
        api.create(Kind::VirtualMachine, vm.object().clone());
    }
    let node = Node::start(&host, "");
    assert!(node.actor().log().wait_for("connected to").contains("10000 domains"));
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", node.actor().pid())).unwrap();
    let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    let memory: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(memory <= MAX_MEMORY, "{rollup}");
}
