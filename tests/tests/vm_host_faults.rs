//! Host preparation while its parts fail, and with AppArmor in enforce mode, in a virtual machine.

use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::vm::{Domain, Vm};

const CONFIGURATION: &str = "
[[domain]]
match = '*'
prepare = ['hugepages', 'isolate']
weight = 900
";
const PINNED: &str = "<cputune><vcpupin vcpu='0' cpuset='3'/><emulatorpin cpuset='0'/></cputune>";

/// Waits until the values are the expected ones. The service checks every few seconds which domains run.
fn wait_for_values(vm: &mut Vm, expected: &str) {
    let mut values = String::new();
    for _ in 0..60 {
        values = vm.values();
        if values == expected {
            return;
        }
        vm.sh("sleep 0.5");
    }
    assert_eq!(values, expected);
}

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn a_domain_survives_what_happens_to_the_preparation() {
    privileged!();
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    vm.prepare_host(CONFIGURATION);
    vm.define(&Domain::new("win11").mebibytes(64).huge_pages(2, "M").settings(PINNED));
    let before = vm.values();
    vm.virsh("start win11");
    let during = vm.values();
    assert_ne!(during, before);
    libvirt_is_confined(&mut vm);

    the_service_is_killed(&mut vm, &before, &during);
}

fn libvirt_is_confined(vm: &mut Vm) {
    let profile = vm.sh("cat /proc/$(pidof libvirtd)/attr/current");
    assert_eq!(profile, "libvirtd (enforce)\n");
    let profile = vm.sh("cat /proc/$(cat /run/libvirt/qemu/win11.pid)/attr/current");
    assert!(profile.starts_with("libvirt-") && profile.ends_with("(enforce)\n"), "{profile}");
    let denials = vm.run("journalctl --no-pager --grep='apparmor=.DENIED.*wakevirt'").output;
    assert!(!denials.contains("wakevirt-hook"), "{denials}");
}

fn the_service_is_killed(vm: &mut Vm, before: &str, during: &str) {
    // While the domain runs.
    vm.sh("systemctl kill --signal=KILL wakevirt-host.service");
    wait_for_values(vm, during);
    // While the domain stops and starts, at different steps.
    for delay in ["0", "0.6"] {
        for (verb, expected) in [("destroy", before), ("start", during)] {
            vm.sh(&format!(
                "(sleep {delay}; systemctl kill --signal=KILL wakevirt-host.service) &
                 virsh --quiet --connect qemu:///system {verb} win11
                 wait"
            ));
            wait_for_values(vm, expected);
        }
    }
}
