//! What an attacker can do who controls wakevirt-host: nothing but what the service does.

use std::collections::BTreeMap;

use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::process::proc::Status;

use super::site;

/// Tries what must be refused (`no`) and what the service needs (`yes`). Prints the attempts that end otherwise.
const ATTEMPTS: &str = include_str!("attempts.sh");

/// A copy of the service's unit that runs the script, with all restrictions.
const UNIT: &str = r"
sed -e 's/^Type=.*/Type=oneshot/' -e 's:^ExecStart=.*:ExecStart=/bin/bash /usr/local/share/attempts restricted:' \
    -e '/^Restart/d' -e '/^WatchdogSec=/d' -e '/^Requires=/d' \
    /lib/systemd/system/wakevirt-host.service >/etc/systemd/system/attempts.service
systemctl daemon-reload
";

/// Everything that the attempts could change.
fn observed(debian: &Debian<'_>) -> String {
    debian.sh("
        cat /etc/passwd /etc/shadow /etc/hostname
        find /etc /usr /var/lib /boot -xdev -newer /run/before-attempts ! -path '/etc/systemd/system.control*' \
            ! -path '/var/lib/systemd/*' ! -path '/var/lib/polkit*' -type f
        find /run -xdev -name '*pwned*'
        find / -xdev -user wakevirt-host -perm /6000 2>/dev/null || true
        systemctl list-units --all --plain --no-legend '*pwned*' 'run-*.service' '*.target' | cut -d ' ' -f 1
        systemctl list-unit-files --no-legend --plain
        systemctl show --property=Environment --property=LogLevel
        systemctl show --property=CPUWeight --property=AllowedCPUs libvirtd.service dbus.service -- -.slice")
}

#[test]
fn a_service_that_is_taken_over_cannot_do_more() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, "[[domain]]\nmatch = \"vm*\"\n");
    debian.write("/usr/local/share/attempts", ATTEMPTS);
    debian.sh(UNIT);
    debian.sh("touch /run/before-attempts && mkdir -p /var/lib/pwned");
    let before = observed(&debian);

    let mut plain = debian.command("runuser");
    let plain = plain.args(["-u", "wakevirt-host", "--", "bash", "/usr/local/share/attempts"]).output();
    let plain = String::from_utf8(plain.expect("runuser runs").stdout).expect("the output is UTF-8");
    assert!(plain.ends_with("all attempts were made\n"), "{plain}");
    assert_eq!(unexpected(&plain), BTreeMap::new(), "without the unit's restrictions");

    let status = Status::of(debian.main_process("wakevirt-host"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status.field(set).trim_start_matches('0'), "", "{set}");
    }
    assert_eq!(status.field("NoNewPrivs"), "1");

    debian.sh("systemctl start attempts");
    let restricted = debian.journal("attempts");
    assert!(restricted.contains("all attempts were made"), "{restricted}");
    assert_eq!(unexpected(&restricted), BTreeMap::new(), "with the unit's restrictions");

    assert_eq!(observed(&debian), before);
}

/// The attempts that did not end as they must, with their output.
fn unexpected(output: &str) -> BTreeMap<&str, &str> {
    output.lines().filter_map(|line| line.strip_prefix("UNEXPECTED ")?.split_once(": ")).collect()
}

/// The only files in sysfs and procfs that belong to the service's group or user, and the only ones that it can write.
#[test]
fn only_the_named_files_belong_to_the_service() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, "");
    let owned = debian.sh(
        "find /sys /run/wakevirt-host -xdev \\( -user wakevirt-host -o -group wakevirt-host \\) -printf '%m %u:%g %p\\n'
         for mount in /sys/kernel/mm/hugepages /sys/devices/system/node /sys/devices/virtual/workqueue; do
             find $mount \\( -user wakevirt-host -o -group wakevirt-host \\) -printf '%m %u:%g %p\\n'
         done",
    );
    let mut owned: Vec<_> = owned.lines().collect();
    owned.sort_unstable();
    owned.dedup();
    assert_eq!(
        owned,
        [
            "220 root:wakevirt-host /sys/devices/system/node/node0/compact",
            "2770 root:wakevirt-host /run/wakevirt-host/spool",
            "664 root:wakevirt-host /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
            "664 root:wakevirt-host /sys/devices/virtual/workqueue/cpumask",
            "664 root:wakevirt-host /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
            "755 wakevirt-host:wakevirt-host /run/wakevirt-host/state",
        ]
    );
}
