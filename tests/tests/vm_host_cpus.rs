//! Isolated CPUs and the weight of domains, with the kernel of a virtual machine.

#![expect(clippy::panic, reason = "a test may panic")]

use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::vm::{Code, Domain, Vm};

const CONFIGURATION: &str = "
[[domain]]
match = 'isolated*'
prepare = ['isolate']
[[domain]]
match = 'weighted'
weight = 900
";

/// As for a domain with a graphics card: each CPU of the domain has its own, and QEMU's other threads use the host's.
const PINNED: &str = "<iothreads>1</iothreads><cputune>
  <vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/>
  <emulatorpin cpuset='0-1'/><iothreadpin iothread='1' cpuset='0-1'/></cputune>";

/// Processes of the host.
const PROCESSES: &str = "
systemd-run --quiet --unit=process sleep infinity
systemd-run --quiet --unit=user-process --slice=user.slice sleep infinity
";

/// The CPUs that the threads of a domain may use, one line for each set.
fn cpus_of_domain(vm: &mut Vm, name: &str) -> String {
    vm.sh(&format!(
        "cat /proc/$(cat /run/libvirt/qemu/{name}.pid)/task/*/status | sed -n 's/^Cpus_allowed_list:\\t//p' | sort -u"
    ))
}

/// The CPUs that the processes of a unit may use, one line for each set.
fn cpus_of_unit(vm: &mut Vm, unit: &str) -> String {
    vm.sh(&format!(
        "for process in $(cat /sys/fs/cgroup/{unit}/cgroup.procs); do
             sed -n 's/^Cpus_allowed_list:\\t//p' /proc/$process/status
         done | sort -u"
    ))
}

fn allowed(vm: &mut Vm) -> [String; 4] {
    ["system.slice", "user.slice", "init.scope", "machine.slice"]
        .map(|unit| vm.value(&format!("AllowedCPUs of {unit}")))
}

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn cpus_belong_to_a_domain_while_it_runs() {
    privileged!();
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    vm.without_apparmor();
    vm.prepare_host(CONFIGURATION);
    vm.define(&Domain::new("isolated").cpus(2).settings(PINNED));
    let one =
        |cpu: u32| format!("<cputune><vcpupin vcpu='0' cpuset='{cpu}'/><emulatorpin cpuset='0'/></cputune>");
    vm.define(&Domain::new("isolated-1").settings(&one(1)));
    vm.define(&Domain::new("isolated-2").settings(&one(2)));
    let all =
        "<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='1'/><vcpupin vcpu='2' cpuset='2'/>
        <vcpupin vcpu='3' cpuset='3'/></cputune>";
    vm.define(&Domain::new("isolated-all").cpus(4).settings(all));
    vm.define(&Domain::new("other"));
    vm.sh(PROCESSES);
    let before = vm.values();
    let drop_ins = vm.drop_ins();

    other_processes_keep_off(&mut vm);
    vm.wait_for_values(&before);
    two_domains_have_their_own(&mut vm);
    vm.wait_for_values(&before);
    a_cpu_goes_offline_and_returns(&mut vm);
    vm.wait_for_values(&before);
    the_host_keeps_a_cpu(&mut vm);
    vm.wait_for_values(&before);
    a_domain_gets_more_time_than_the_host(&mut vm);
    vm.wait_for_values(&before);
    vm.sh(
        "timeout 100 sh -c 'while systemctl --quiet is-active wakevirt-drop-ins.service; do sleep 0.2; done'",
    );
    assert_eq!(vm.drop_ins(), drop_ins);
}

fn other_processes_keep_off(vm: &mut Vm) {
    vm.virsh_with_events("start other");
    assert_eq!(cpus_of_domain(vm, "other"), "0-3\n");
    vm.virsh_with_events("start isolated");
    assert_eq!(allowed(vm), ["0-1", "0-1", "0-1", "0-3"]);
    assert_eq!(vm.value("devices/virtual/workqueue/cpumask"), "3");
    assert_ne!(vm.drop_ins(), "");
    assert_eq!(vm.value("CPUs of systemd"), "0-1");
    for unit in ["system.slice/process.service", "user.slice/user-process.service"] {
        assert_eq!(cpus_of_unit(vm, unit), "0-1\n", "{unit}");
    }
    assert_eq!(cpus_of_domain(vm, "isolated"), "0-1\n2\n3\n");
    assert_eq!(cpus_of_domain(vm, "other"), "0-1\n");
    // A domain that starts later keeps off as well.
    vm.virsh_with_events("destroy other");
    vm.virsh_with_events("start other");
    assert_eq!(cpus_of_domain(vm, "other"), "0-1\n");
    vm.virsh_with_events("destroy isolated");
    assert_eq!(cpus_of_domain(vm, "other"), "0-3\n");
    // A domain still uses the cpuset controller when the drop-ins are removed.
    vm.sh("until [ \"$(systemctl is-active wakevirt-drop-ins)\" = inactive ]; do sleep 0.2; done");
    assert_eq!(vm.sh("find /run/systemd -name '50-AllowedCPUs.conf'"), "");
    assert_eq!(allowed(vm), ["0-3", "0-3", "0-3", "0-3"]);
    assert_eq!(cpus_of_domain(vm, "other"), "0-3\n");
    vm.virsh_with_events("destroy other");
}

fn two_domains_have_their_own(vm: &mut Vm) {
    vm.virsh_with_events("start isolated-1");
    vm.virsh_with_events("start isolated-2");
    assert_eq!(allowed(vm), ["0,3", "0,3", "0,3", "0-3"]);
    vm.virsh_with_events("destroy isolated-1");
    assert_eq!(allowed(vm), ["0-1,3", "0-1,3", "0-1,3", "0-3"]);
    assert_eq!(cpus_of_domain(vm, "isolated-2"), "0\n2\n");
    vm.virsh_with_events("destroy isolated-2");
}

fn a_cpu_goes_offline_and_returns(vm: &mut Vm) {
    vm.virsh_with_events("start isolated");
    vm.sh("echo 0 >/sys/devices/system/cpu/cpu1/online");
    assert_eq!(allowed(vm), ["0", "0", "0", "0,2-3"]);
    vm.sh("echo 1 >/sys/devices/system/cpu/cpu1/online");
    assert_eq!(allowed(vm), ["0-1", "0-1", "0-1", "0-3"]);
    vm.sh("echo 0 >/sys/devices/system/cpu/cpu3/online");
    vm.virsh_with_events("destroy isolated");
    vm.sh("echo 1 >/sys/devices/system/cpu/cpu3/online");
}

fn the_host_keeps_a_cpu(vm: &mut Vm) {
    let before = vm.values();
    vm.virsh_with_events("start isolated-all");
    let during = vm.values();
    assert_eq!(
        during
            .replace("wakevirt-domain@isolated\\x2dall.target wakevirt-prepare@isolated\\x2dall.target", ""),
        before
    );
    let status = vm.run("wakevirtctl host status").output;
    assert!(status.contains("cannot be isolated"), "{status}");
    vm.virsh_with_events("destroy isolated-all");
}

/// The CPU time of a domain for each unit of CPU time of a process of the host, on the same CPU.
fn ratio(vm: &mut Vm, domain: &str) -> f64 {
    let output = vm.sh(&format!(
        "usage() {{ sed -n 's/^usage_usec //p' /sys/fs/cgroup/$1/cpu.stat; }}
         virsh --quiet --connect qemu:///system start {domain}
         systemd-run --quiet --unit=hog taskset --cpu-list 3 sh -c 'while :; do :; done'
         sleep 2
         domain=$(usage machine.slice) hog=$(usage system.slice/hog.service)
         sleep 6
         echo $(($(usage machine.slice) - domain)) $(($(usage system.slice/hog.service) - hog))
         systemctl stop hog
         virsh --quiet --connect qemu:///system destroy {domain}"
    ));
    let times: Vec<f64> = output.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    let [domain, hog] = times[..] else { panic!("unexpected output {output:?}") };
    assert!(domain + hog > 3e6, "the CPU was idle: {output}");
    domain / hog
}

fn a_domain_gets_more_time_than_the_host(vm: &mut Vm) {
    let pinned = "<cputune><vcpupin vcpu='0' cpuset='3'/><emulatorpin cpuset='0'/></cputune>";
    vm.define(&Domain::new("plain").code(Code::Spins).settings(pinned));
    vm.define(&Domain::new("weighted").code(Code::Spins).settings(pinned));
    let plain = ratio(vm, "plain");
    let weighted = ratio(vm, "weighted");
    assert!(plain < 2.0 && weighted > 4.0, "{plain:.1} with the default weight, {weighted:.1} with 900");
}
