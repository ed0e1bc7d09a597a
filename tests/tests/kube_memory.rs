//! The memory of the actor for KubeVirt in a large cluster.

use wakevirt_tests::host::Host;
use wakevirt_tests::kubernetes::node::Node;
use wakevirt_tests::kubernetes::server::ApiServer;
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;

/// The size of a VirtualMachine in a typical cluster, in bytes.
const SIZE: usize = 4400;
const MACHINES: usize = 10_000;
/// The maximum of the anonymous memory after the first list, in KiB.
const MAX_ANONYMOUS: u64 = 20 * 1024;

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn ten_thousand_machines_need_little_memory() {
    wakevirt_tests::privileged!();
    let host = Host::new();
    let api = ApiServer::start_on(&host);
    for number in 0..MACHINES {
        let mac = format!("52:54:00:88:{:02x}:{:02x}", number / 256, number % 256);
        api.add(&VirtualMachine::new("n", &format!("vm{number:05}"), &mac).of_size(SIZE));
    }
    api.write_kubeconfig(&host.path("/run/wakevirt-cluster"), "/run/wakevirt-cluster");
    let node = Node::start(&host, "[[allow]]\ndomain = \"n/*\"\n");
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", node.actor().pid())).unwrap();
    let anonymous = smaps.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    let anonymous: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(anonymous <= MAX_ANONYMOUS, "{anonymous} KiB:\n{smaps}");
}
