//! The demonstration of host preparation, in a virtual machine: huge pages, isolated CPUs and priority for a domain that
//! a magic packet starts, and real suspend to RAM while it sleeps.

use std::process::ExitCode;
use std::time::Duration;

use crate::demo::run_with;
use crate::demo::screen::Screen;
use crate::host::Host;
use crate::host::guard;
use crate::vm::{Domain, Vm};

const DOMAIN: &str = "win11";
const MAC: &str = "52:54:00:12:34:56";

const HOST_TOML: &str = "[[domain]]
match   = 'win*'
prepare = ['hugepages', 'isolate']
weight  = 900
sleep   = 'pause'";

const PINNED: &str = "<cputune>
  <vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/><emulatorpin cpuset='0-1'/></cputune>";

/// Sends a packet as etherwake does with `-b`.
const SEND: &str = "
import socket
mac = bytes.fromhex('525400123456')
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packets.bind(('lan0', 0))
packets.send(b'\\xff' * 6 + bytes.fromhex('020000000007') + b'\\x08\\x42' + b'\\xff' * 6 + mac * 16)
";

/// Sends the packet, and waits until the domain has started. Otherwise, prints why it has not.
const WAKE: &str = "
ip netns exec lan python3 /root/send.py
timeout 120 sh -c 'until wakevirtctl history | grep -q started; do sleep 0.2; done' || {
    echo 'the packet did not start the domain'
    wakevirtctl doctor win11
    journalctl --no-pager --output=cat --lines=20 --unit='wakevirt-*'
    exit 1
}
";

/// systemd-sleep(8) runs this program before and after the kernel suspends.
const RECORD: &str = "#!/bin/sh
virsh --quiet --connect qemu:///system domstate win11 >/run/state-during-sleep
";

/// What the kernel and wakevirt-sleep report about the sleep.
const SLEEP_LOG: &str = "journalctl --no-pager --output=cat --since=-2min | grep -E \
    '^(PM: suspend|ACPI: PM: (Preparing|Waking)|asleep|awake)'";

/// How long the host sleeps.
const SLEEP: Duration = Duration::from_secs(5);

/// Runs the demonstration. Its last line says whether it succeeded.
#[must_use]
pub fn run() -> ExitCode {
    let programs = ["qemu-system-x86_64", "qemu-img", "debootstrap", "mke2fs", "busybox", "strip"];
    run_with(&[guard::FOR_DEMO, &programs].concat(), show)
}

fn show(screen: Screen) {
    screen.title("wakevirt: a magic packet arrives, and its host is prepared before the VM starts");

    screen.heading("Set-up, in a virtual machine without KVM");
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    set_up(screen, &mut vm);

    screen.heading("Before");
    let before = vm.values();
    print(screen, &before, &before);

    screen.heading("A magic packet from another machine");
    screen.packet(&format!("magic packet for {MAC}, sent from the other end of eth0"));
    vm.sh(WAKE);
    vm.sh("wakevirtctl history").lines().for_each(|line| screen.note(line));

    screen.heading("While the VM runs");
    let during = vm.values();
    print(screen, &before, &during);
    assert_ne!(during, before, "the host was not prepared");
    let pages = vm.sh("awk '/^HugePages_Total/ { print $2 }' /proc/meminfo");
    screen.item("huge pages", &format!("{} of 2 MiB are in use", pages.trim()));
    assert_ne!(pages, "0\n", "no huge page is in use");
    screen.note("$ wakevirtctl host status");
    // The kernel's threads and interrupts that remain on isolated CPUs are long lists.
    let status = "wakevirtctl host status | grep -v 'on isolated CPUs'";
    vm.run(status).output.lines().for_each(|line| screen.note(line));

    screen.heading("The host suspends to RAM, and wakes up");
    vm.suspend(SLEEP);
    vm.run(SLEEP_LOG).output.lines().for_each(|line| screen.note(line));
    let state = vm.virsh(&format!("domstate --reason {DOMAIN}"));
    screen.item("domain", state.trim());
    assert!(state.starts_with("running"), "{DOMAIN} is {state}");
    let asleep = vm.sh("cat /run/state-during-sleep");
    assert_eq!(asleep.trim(), "paused", "{DOMAIN} did not sleep with the host");

    screen.heading("After the VM has stopped");
    vm.virsh(&format!("destroy {DOMAIN}"));
    let after = vm.values();
    print(screen, &during, &after);
    assert_eq!(after, before, "the host is not as before");
    screen.success(
        "The magic packet started the VM on a prepared host; the VM slept with the host; now everything is as before.",
    );
}

fn set_up(screen: Screen, vm: &mut Vm) {
    let system = vm.sh(". /etc/os-release; echo \"$PRETTY_NAME, Linux $(uname -r)\"");
    screen.item("host", system.trim());
    let sizes = vm.sh("echo \"$(nproc) CPUs, $(free --gibi | awk '/^Mem/ { print $2 + 1 }') GiB, AppArmor\"");
    screen.item("with", sizes.trim());
    let interface =
        format!("<interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>");
    let domain = Domain::new(DOMAIN).mebibytes(256).cpus(2).huge_pages(2, "M");
    vm.define(&domain.settings(PINNED).devices(&interface));
    screen.item("domain", &format!("{DOMAIN}, 256 MiB of huge pages, 2 CPUs pinned to 2 and 3"));
    vm.write("/root/send.py", SEND);
    vm.sh("mkdir -p /usr/lib/systemd/system-sleep");
    vm.write("/usr/lib/systemd/system-sleep/record", RECORD);
    vm.sh("chmod +x /usr/lib/systemd/system-sleep/record");
    vm.connect_lan();
    vm.write("/etc/wakevirt/actor.toml", &format!("[[allow]]\ndomain = '{DOMAIN}'"));
    vm.prepare_host(HOST_TOML);
    vm.sh("systemctl enable wakevirt-suspend.service; systemctl enable --now wakevirt-capture.service wakevirt-actor.service
           timeout 120 sh -c 'until wakevirtctl list | grep -q win11; do sleep 0.2; done'");
    screen.item("host.toml", "");
    HOST_TOML.lines().for_each(|line| screen.note(line));
}

/// Prints the values, and those that have changed in colour.
fn print(screen: Screen, from: &str, to: &str) {
    for (old, new) in from.lines().zip(to.lines()) {
        let (name, value) = new.split_once('=').unwrap_or((new, ""));
        let old = old.split_once('=').map_or("", |(_, value)| value);
        // Long names of files are shown without their directories.
        let name = name.trim_start_matches("kernel/mm/").trim_start_matches("devices/");
        if old == value {
            screen.note(&format!("{name:<62} {value}"));
        } else {
            screen.packet(&format!("{name:<62} {old} → {value}"));
        }
    }
}
