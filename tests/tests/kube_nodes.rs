//! Nodes of a cluster with a real API server: races, restarts, and permissions that are taken away.
//!
//! The `WAKEVIRT_ROUNDS` environment variable multiplies the number of rounds in which the API server fails.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::json;
use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::kubernetes::cluster::Cluster;
use wakevirt_tests::kubernetes::kind::Kind;
use wakevirt_tests::kubernetes::node::Node;
use wakevirt_tests::kubernetes::proxy::Proxy;
use wakevirt_tests::kubernetes::virt::machine::VirtualMachine;
use wakevirt_tests::network::Peer;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::wait;

const ALLOW: &str = "[[allow]]\ndomain = \"n/*\"\n";

/// A cluster on a host that is also a switch: `br0` connects a machine on the network and the nodes.
fn cluster(host: &Host) -> (Cluster<'_>, Peer<'_>) {
    host.bridge("br0");
    host.sh("ip address add 10.77.0.1/24 dev br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0");
    (Cluster::start(host, &["10.77.0.1"]), lan)
}

/// Connects a node with this number to the switch, and gives it credentials.
fn connect(switch: &Host, cluster: &Cluster<'_>, node: &Host, number: usize) {
    switch.cable(&format!("node{number}"), node, "eth0");
    switch.sh(&format!("ip link set node{number} master br0"));
    node.sh(&format!("ip address add 10.77.0.{}/24 dev eth0", 10 + number));
    cluster.install_kubeconfig(node, "10.77.0.1:6443");
}

fn mac(number: usize) -> String {
    format!("52:54:00:77:{:02x}:{:02x}", number / 256, number % 256)
}

fn send(lan: &Peer<'_>, number: usize) {
    lan.send(&frame(number));
}

fn frame(number: usize) -> Vec<u8> {
    ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &magic(&mac(number), &[]))
}

/// Whether the actor knows the machine with this number and this name.
fn is_known(host: &Host, number: usize, name: &str) -> bool {
    let mac = format!("'{}'", mac(number));
    let reply = host.call(User::Root, ACTOR_NAME, "Explain", &[&mac, "@a{sv} {}"]).unwrap();
    reply.contains(&format!("n/{name}"))
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn two_nodes_start_each_machine_once() {
    wakevirt_tests::privileged!();
    const MACHINES: usize = 100;
    let (switch, hosts) = (Host::new(), [Host::new(), Host::new()]);
    let (cluster, lan) = cluster(&switch);
    let strategies = ["Halted", "Manual", "RerunOnFailure", "Halted"];
    for number in 0..MACHINES {
        let vm = VirtualMachine::new("n", &format!("vm{number:03}"), &mac(number));
        cluster.add(&vm.strategy(strategies[number % strategies.len()]));
    }
    for (number, host) in hosts.iter().enumerate() {
        connect(&switch, &cluster, host, number);
    }
    let nodes = hosts.each_ref().map(|host| Node::start(host, ALLOW));
    let mut injector = lan.injector();
    let mut outcomes = [0, 0];
    for number in 0..MACHINES {
        injector.send(&frame(number));
    }
    for number in 0..MACHINES {
        let name = format!("vm{number:03}");
        for node in &nodes {
            let (outcome, line) = node.outcome(&format!("n/{name}"), 1);
            match outcome.as_str() {
                "started" => outcomes[0] += 1,
                "already-running" => outcomes[1] += 1,
                _ => panic!("{line}\n{}", node.actor().log().last(30)),
            }
        }
        assert_eq!(cluster.starts(&name), 1, "{name}: {:?}", cluster.forwarded());
        assert_eq!(cluster.phase("n", &name).as_deref(), Some("Running"), "{name}");
    }
    assert_eq!(outcomes.iter().sum::<usize>(), 2 * MACHINES);
    assert!(outcomes[0] >= MACHINES, "some machines were started by no node: {outcomes:?}");
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn a_node_survives_faults_of_the_api_server() {
    wakevirt_tests::privileged!();
    let (switch, host) = (Host::new(), Host::new());
    let (mut cluster, lan) = cluster(&switch);
    cluster.add(&VirtualMachine::new("n", "first", &mac(0)));
    connect(&switch, &cluster, &host, 0);
    let node = Node::start(&host, ALLOW);
    send(&lan, 0);
    assert_eq!(node.outcome("n/first", 1).0, "started");

    let rounds = std::env::var("WAKEVIRT_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let (held, late) = (format!("held-{round}"), format!("late-{round}"));
        let (held_mac, late_mac) = (1 + 2 * round, 2 + 2 * round);
        // A packet that arrives while the server is away is held.
        cluster.add(&VirtualMachine::new("n", &held, &mac(held_mac)).strategy("Manual"));
        wait::until_true("the actor to know the machine", || is_known(&host, held_mac, &held));
        cluster.kill();
        send(&lan, held_mac);
        cluster.start_again();
        assert_eq!(node.outcome(&format!("n/{held}"), 1).0, "started");
        assert_eq!(cluster.starts(&held), 1);

        // The history that the watch needs is discarded while the server is away.
        cluster.kill();
        cluster.start_again();
        cluster.add(&VirtualMachine::new("n", &late, &mac(late_mac)));
        cluster.compact();
        cluster.kill();
        cluster.start_again();
        wait::until_true("the actor to know the machine", || {
            send(&lan, late_mac);
            node.outcomes(&format!("n/{late}"), "started") > 0
        });
        assert_eq!(cluster.starts(&late), 1);
        assert_eq!(node.outcomes(&format!("n/{held}"), "failed"), 0);
    }
    assert_eq!(node.outcomes("n/first", "failed"), 0);
    println!(
        "soak: the API server is killed while packets arrive | {rounds} rounds | each machine started once"
    );
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn a_node_survives_a_watch_that_breaks_in_the_middle_of_an_event() {
    wakevirt_tests::privileged!();
    let (switch, host) = (Host::new(), Host::new());
    let (cluster, lan) = cluster(&switch);
    connect(&switch, &cluster, &host, 0);
    let proxy = Proxy::start(&switch, "10.77.0.1:6444".parse().unwrap(), "127.0.0.1:6443".parse().unwrap());
    cluster.install_kubeconfig(&host, "10.77.0.1:6444");
    let node = Node::start(&host, ALLOW);
    // An event is longer. The events after it arrive on another connection.
    proxy.cut_after(300);
    for number in 0..3 {
        cluster.add(&VirtualMachine::new("n", &format!("vm{number}"), &mac(number)));
    }
    proxy.wait_for_cut();
    for number in 0..3 {
        let name = format!("vm{number}");
        wait::until_true("the actor to know the machine", || {
            send(&lan, number);
            node.outcomes(&format!("n/{name}"), "started") > 0
        });
        assert_eq!(cluster.starts(&name), 1);
    }
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn machines_come_and_go_while_packets_arrive() {
    wakevirt_tests::privileged!();
    const MACHINES: usize = 1000;
    let (switch, host) = (Host::new(), Host::new());
    let (cluster, lan) = cluster(&switch);
    connect(&switch, &cluster, &host, 0);
    cluster.add(&VirtualMachine::new("n", "steady", &mac(MACHINES)));
    let node = Node::start(&host, ALLOW);
    let pid = node.actor().pid();
    let mut injector = lan.injector();
    for number in 0..MACHINES {
        let name = format!("vm{number:04}");
        cluster.add(&VirtualMachine::new("n", &name, &mac(number)));
        // Some packets arrive before the actor knows the machine, some afterwards.
        if number % 20 == 0 {
            injector.send(&frame(number));
        }
        if number == MACHINES / 2 {
            injector.send(&frame(MACHINES));
        }
        if number >= 50 {
            cluster.delete(Kind::VirtualMachine, "n", &format!("vm{:04}", number - 50));
        }
    }
    assert_eq!(node.outcome("n/steady", 1).0, "started");
    assert_eq!(cluster.starts("steady"), 1);
    let last = MACHINES - 1;
    wait::until_true("the actor to know the last machine", || {
        injector.send(&frame(last));
        node.outcomes(&format!("n/vm{last:04}"), "started") > 0
    });
    assert_eq!(node.actor().pid(), pid);
    // A machine can be deleted during its wake.
    let was_deleted = |line: &String| {
        let number = line.split("'n/vm").nth(1).and_then(|rest| rest.get(..4)?.parse().ok());
        number.is_some_and(|number: usize| number < MACHINES - 50)
            && line.contains("the virtual machine no longer exists")
    };
    let failed = node.signals().into_iter().filter(|line| line.contains("'failed'") && !was_deleted(line));
    assert_eq!(failed.collect::<Vec<_>>(), [""; 0]);
    // The actor forgets machines that were deleted.
    wait::until_true("the actor to forget the first machine", || !is_known(&host, 0, "vm0000"));
}

#[test]
#[ignore = "it needs a Kubernetes API server: make check-kubevirt"]
fn a_missing_permission_is_named() {
    wakevirt_tests::privileged!();
    let (switch, host) = (Host::new(), Host::new());
    let (cluster, lan) = cluster(&switch);
    connect(&switch, &cluster, &host, 0);
    cluster.add(&VirtualMachine::new("n", "vm", &mac(0)));
    let node = Node::start(&host, ALLOW);
    cluster.edit_role(|role| {
        let rules = role["rules"].as_array_mut().unwrap();
        rules.retain(|rule| rule["apiGroups"] != json!(["subresources.kubevirt.io"]));
    });
    cluster.wait_until_denied("update", "subresources.kubevirt.io", "virtualmachines", "start");
    send(&lan, 0);
    let (outcome, line) = node.outcome("n/vm", 1);
    assert_eq!(outcome, "failed", "{line}");
    assert!(line.contains("cannot update resource") && line.contains("virtualmachines/start"), "{line}");
    assert_eq!(cluster.phase("n", "vm"), None);
}
