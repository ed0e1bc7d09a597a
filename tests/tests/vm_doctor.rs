//! `wakevirtctl doctor` and VLANs, in a virtual machine: the kernel of the machine that runs the tests might have none.
//! Another machine, a network namespace, sends tagged frames to `eth0`.
#![expect(clippy::panic, reason = "a test may panic")]

use serde_json::Value;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::privileged;
use wakevirt_tests::vm::Vm;

const DOMAIN: &str = "win11";
const MAC: &str = "52:54:00:12:34:56";

/// Creates the VLAN 5 on `eth0`, and the port `eth0.6` of the bridge `br6`, also on the other machine.
const NETWORK: &str = "
ip link add br6 type bridge
ip link set br6 up
for id in 5 6; do
    ip link add link eth0 name eth0.$id type vlan id $id
    ip link set eth0.$id up
    ip -n lan link add link lan0 name lan0.$id type vlan id $id
    ip -n lan link set lan0.$id up
done
ip link set eth0.6 master br6
systemctl enable --now wakevirt-capture wakevirt-actor
virsh --quiet --connect qemu:///system define /root/win11.xml
";

/// Sends a frame to the MAC address of the domain, as etherwake does without `-b`. The argument is the interface.
const SEND: &str = "
import socket, sys
mac = bytes.fromhex('525400123456')
frame = mac + bytes.fromhex('020000000007') + b'\\x08\\x42' + b'\\xff' * 6 + mac * 16
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packets.bind((sys.argv[1], 0))
packets.send(frame)
";

/// Writes the configuration, and restarts both services. They read the new configuration, and the cool-down ends.
const CONFIGURE: &str = "
rm -f /etc/wakevirt/capture.d/* /etc/wakevirt/actor.d/*
printf \"$capture\" >/etc/wakevirt/capture.d/test.toml
printf \"[[allow]]\\ndomain = 'win11'\\n$rule\" >/etc/wakevirt/actor.d/test.toml
systemctl restart wakevirt-actor wakevirt-capture
timeout 200 sh -c 'until wakevirtctl list | grep -q win11; do sleep 0.2; done'
";

/// A fault of the configuration.
struct Fault {
    /// The content of capture.toml.
    capture: &'static str,
    /// The conditions of the rule for the domain.
    rule: &'static str,
    /// The VLAN in which the packet is sent.
    vlan: u16,
    /// Whether a packet is denied before doctor runs.
    denied: bool,
    /// The check of the first finding.
    check: &'static str,
    /// Part of its evidence.
    evidence: &'static str,
}

const FAULTS: [Fault; 5] = [
    // The kernel removes the tag before the frame arrives on the interface of the VLAN.
    Fault {
        capture: "",
        rule: "interfaces = ['eth0.5']\\nvlans = [5]\\n",
        vlan: 5,
        denied: false,
        check: "vlan-interface",
        evidence: "eth0.5 is VLAN 5 of eth0; its packets have no tag",
    },
    Fault {
        capture: "interfaces = ['eth0']\\n",
        rule: "interfaces = ['eth0.5']\\n",
        vlan: 5,
        denied: true,
        check: "denied-interface",
        evidence: "eth0.5 is a VLAN of eth0",
    },
    Fault {
        capture: "interfaces = ['eth0.5']\\n",
        rule: "interfaces = ['eth0']\\n",
        vlan: 5,
        denied: true,
        check: "denied-interface",
        evidence: "eth0.5 is VLAN 5 of eth0",
    },
    Fault {
        capture: "interfaces = ['eth0']\\n",
        rule: "vlans = [6]\\n",
        vlan: 5,
        denied: true,
        check: "denied-vlan",
        evidence: "it does not match packets in this VLAN (5)",
    },
    // The frame for a domain that is off is visible on the port of the bridge, and not on the bridge.
    Fault {
        capture: "interfaces = ['br6', 'eth0.6']\\n",
        rule: "interfaces = ['br6']\\n",
        vlan: 6,
        denied: true,
        check: "denied-interface",
        evidence: "eth0.6 is a port of br6",
    },
];

fn diagnose(vm: &mut Vm) -> Value {
    let output = vm.run(&format!("wakevirtctl --json doctor {DOMAIN}")).output;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Sends packets until a shell command succeeds. A packet like a previous one counts as a copy for two seconds.
fn send_until(vm: &mut Vm, vlan: u16, condition: &str) {
    let line = format!(
        "timeout 200 sh -c 'until {condition}; do ip netns exec lan python3 /root/send.py lan0.{vlan}; sleep 0.5; done'"
    );
    let finished = vm.run(&line);
    assert_eq!(finished.status, 0, "timed out waiting for {condition}: {}", finished.output);
}

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn each_vlan_fault_is_found_and_fixed() {
    privileged!();
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    vm.without_apparmor();
    let interface =
        format!("<interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>");
    vm.write("/root/win11.xml", &qemu_domain_with(DOMAIN, &interface));
    vm.write("/root/send.py", SEND);
    vm.connect_lan();
    vm.sh(NETWORK);
    for Fault { capture, rule, vlan, denied, check, evidence } in FAULTS {
        vm.sh(&format!("capture=\"{capture}\" rule=\"{rule}\"\n{CONFIGURE}"));
        if denied {
            send_until(&mut vm, vlan, "wakevirtctl history | grep -q not-allowed");
        }
        let json = diagnose(&mut vm);
        let first = &json["findings"][0];
        assert_eq!(first["check"], check, "{json:#}");
        let lines = first["evidence"].as_array().expect("a list");
        assert!(lines.iter().any(|line| line.as_str().is_some_and(|it| it.contains(evidence))), "{json:#}");
        vm.sh(first["cure"].as_str().expect("a command"));
        send_until(&mut vm, vlan, "virsh --quiet --connect qemu:///system domstate win11 | grep -q running");
        vm.sh(&format!("virsh --quiet --connect qemu:///system destroy {DOMAIN}"));
        let json = diagnose(&mut vm);
        assert_ne!(json["findings"][0]["check"], check, "{json:#}");
    }
}
