//! Host preparation while its parts fail, and with AppArmor in enforce mode, in a virtual machine.
//!
//! The `WAKEVIRT_ROUNDS` environment variable multiplies the number of rounds in which the service is killed.

#![expect(clippy::expect_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "make soak shows the result")]

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

/// Without the service, the hook lets a domain start, and QEMU fails if the huge pages do not exist yet.
const RETRY: &str = "cat /run/error; grep --quiet 'Cannot allocate memory' /run/error";

/// Runs the hook as libvirt does, for 25 domains that start and stop.
const OPERATIONS: &str = r#"
xml=$(cat /run/win11.xml)
for number in $(seq 25); do
    for operation in prepare started stopped release; do
        sub=begin
        if [[ $operation = stopped || $operation = release ]]; then sub=end; fi
        /usr/sbin/wakevirt-hook "other-$number" $operation $sub - <<<"${xml/win11/other-$number}" >/dev/null 2>&1
    done
done
ls /run/wakevirt-host/spool | wc -l
"#;

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn a_domain_survives_what_happens_to_the_preparation() {
    privileged!();
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    vm.prepare_host(CONFIGURATION);
    vm.define(&Domain::new("win11").mebibytes(64).huge_pages(2, "M").settings(PINNED));
    let before = vm.values();
    vm.virsh_with_events("start win11");
    let during = vm.values();
    assert_ne!(during, before);
    libvirt_is_confined(&mut vm);

    the_service_is_killed(&mut vm, &before, &during);
    events_are_handled_later(&mut vm, &before, &during);
    the_package_is_removed(&mut vm);
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
    vm.wait_for_values(during);
    // While the domain stops and starts, at different steps: further rounds kill it at further times.
    let rounds = std::env::var("WAKEVIRT_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"));
    let more = (1..rounds).map(|round| format!("{}.{:02}", round % 2, round * 37 % 100));
    for delay in ["0".to_owned(), "0.6".to_owned()].into_iter().chain(more) {
        for (verb, expected) in [("destroy", before), ("start", during)] {
            vm.sh(&format!(
                "(sleep {delay}; systemctl kill --signal=KILL wakevirt-host.service) &
                 {verb}() {{ virsh --quiet --connect qemu:///system {verb} win11; }}
                 {verb} 2>/run/error || {{ {RETRY}; wait; {verb}; }}
                 wait"
            ));
            vm.wait_for_values(expected);
        }
    }
    println!(
        "soak: wakevirt-host is killed while a domain starts and stops | {rounds} rounds | the host ends as it was"
    );
}

fn events_are_handled_later(vm: &mut Vm, before: &str, during: &str) {
    vm.virsh("destroy win11");
    vm.wait_for_values(before);
    vm.sh("systemctl stop wakevirt-host.socket wakevirt-host.service");
    // Without its huge pages, the domain would not start.
    vm.sh("sed -i 's/.hugepages., //' /etc/wakevirt/host.toml; virsh --connect qemu:///system dumpxml win11 >/run/win11.xml
           sed -i '/<memoryBacking>/,/<.memoryBacking>/d' /run/win11.xml; virsh --connect qemu:///system define /run/win11.xml");
    vm.virsh("start win11");
    let count = "ls /run/wakevirt-host/spool | wc -l";
    let before_operations: u32 = vm.sh(count).trim().parse().expect("a number");
    let entries: u32 = vm.sh(OPERATIONS).trim().parse().expect("a number");
    assert_eq!(entries - before_operations, 100);
    vm.sh("systemctl start wakevirt-host.socket wakevirt-host.service");
    vm.wait_for_events();
    vm.wait_for_values(&without_pages(during));
    vm.virsh("destroy win11");
    vm.wait_for_values(before);
}

fn without_pages(values: &str) -> String {
    values
        .lines()
        .map(|line| match line.split_once("hugepages=") {
            Some((name, _)) => format!("{name}hugepages=0\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

/// As after `apt remove`, which leaves the link to the hook because it is below `/etc`.
fn the_package_is_removed(vm: &mut Vm) {
    vm.virsh("start win11");
    let process = vm.sh("cat /run/libvirt/qemu/win11.pid");
    vm.sh("systemctl stop wakevirt-host.socket wakevirt-host.service
           rm /usr/sbin/wakevirt-hook /usr/bin/wakevirt-host /usr/lib/systemd/system/wakevirt-host.*
           systemctl daemon-reload
           systemctl restart libvirtd.service");
    assert_eq!(vm.virsh("domstate win11").trim(), "running");
    assert_eq!(vm.sh("cat /run/libvirt/qemu/win11.pid"), process);
    vm.virsh("destroy win11");
    vm.virsh("start win11");
    vm.virsh("destroy win11");
}
