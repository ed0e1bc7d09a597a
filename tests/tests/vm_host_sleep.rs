//! wakevirt-sleep around real suspend to RAM, in a virtual machine.

use std::time::Duration;

use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::vm::{Code, Domain, Vm};

/// The guest of `stuck` ignores the power button.
const CONFIGURATION: &str = "
sleep-wait = '10s'
[[domain]]
match = 'pause*'
sleep = 'pause'
[[domain]]
match = 'save'
sleep = 'save'
[[domain]]
match = 'stuck'
sleep = 'shutdown'
on-failure = 'stay-awake'
";

/// systemd-sleep(8) runs this program before and after the kernel suspends. Domains that are `shut off` have no number.
const RECORD: &str = "#!/bin/sh
virsh --quiet --connect qemu:///system list --all | sed -E 's/^ *[0-9-]+ +//; s/ +/ /' >/run/domains-$1
";

/// The states before the host sleeps. Someone has paused `pause-before`, and the guest of `pause-asleep` has suspended
/// itself.
const AWAKE: &str =
    "pause running\npause-asleep pmsuspended\npause-before paused\nplain running\nsave running\n";
/// The states while the host sleeps.
const ASLEEP: &str =
    "pause paused\npause-asleep pmsuspended\npause-before paused\nplain running\nsave shut off\n";

/// The states of all domains, in the order of their names.
fn states(vm: &mut Vm) -> String {
    vm.sh("/usr/lib/systemd/system-sleep/record now; sort /run/domains-now")
}

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn domains_sleep_while_the_host_is_suspended_to_ram() {
    privileged!();
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    vm.without_apparmor();
    vm.sh("mkdir -p /usr/lib/systemd/system-sleep");
    vm.write("/usr/lib/systemd/system-sleep/record", RECORD);
    vm.sh("chmod +x /usr/lib/systemd/system-sleep/record");
    vm.write("/etc/wakevirt/host.toml", CONFIGURATION);
    vm.sh("systemctl enable wakevirt-suspend.service");
    for name in ["pause", "pause-before", "pause-asleep", "plain", "save"] {
        let code = if name == "pause-asleep" { Code::Suspends } else { Code::Idles };
        vm.define(&Domain::new(name).code(code));
        vm.virsh(&format!("start {name}"));
    }
    vm.virsh("suspend pause-before");
    vm.sh("timeout 200 sh -c 'until virsh --quiet --connect qemu:///system domstate pause-asleep | grep pmsuspended
           do sleep 0.2; done'");
    assert_eq!(states(&mut vm), AWAKE);

    vm.suspend(Duration::from_secs(5));
    assert_eq!(vm.sh("sort /run/domains-pre"), ASLEEP);
    assert_eq!(vm.sh("sort /run/domains-post"), ASLEEP);
    assert_eq!(states(&mut vm), AWAKE);
    a_domain_keeps_the_host_awake(&mut vm);
}

fn a_domain_keeps_the_host_awake(vm: &mut Vm) {
    vm.virsh("destroy save");
    vm.define(&Domain::new("stuck"));
    vm.virsh("start stuck");
    let (suspends, before) = (vm.suspends(), states(vm));
    vm.sh("rm /run/domains-pre");
    vm.run("systemctl suspend");
    vm.wait_for_sleep();
    let log = vm.sh("journalctl --no-pager --output=cat --unit=wakevirt-suspend.service");
    assert_eq!(vm.suspends(), suspends, "{log}");
    assert_ne!(vm.run("test -e /run/domains-pre").status, 0, "{log}");
    assert!(log.contains("\"stuck\"") && log.contains("the host stays awake"), "{log}");
    assert_eq!(states(vm), before);
}
