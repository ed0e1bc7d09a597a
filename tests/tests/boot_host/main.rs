//! wakevirt-host on a booted Debian system, with files in place of the host's sysfs, which is read-only there.

mod drop_ins;
mod events;
mod taken_over;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::wait;

/// Replaces the parts of sysfs that the service writes, and gives them the permissions of the package.
const SYSFS: &str = r#"
fake=/run/fake-sysfs node=/run/fake-sysfs/node/node0
mkdir -p $fake/hugepages/hugepages-2048kB $node/hugepages/hugepages-2048kB $fake/workqueue
echo 0 >$fake/hugepages/hugepages-2048kB/nr_overcommit_hugepages
echo 0 | tee $node/hugepages/hugepages-2048kB/nr_hugepages >$node/hugepages/hugepages-2048kB/surplus_hugepages
echo 'Node 0 MemTotal: 4194304 kB' >$node/meminfo
touch $node/compact
chmod 200 $node/compact
echo 3 >$fake/workqueue/cpumask
mount --bind $fake/hugepages /sys/kernel/mm/hugepages
mount --bind $fake/node /sys/devices/system/node
mount --bind $fake/workqueue /sys/devices/virtual/workqueue
systemd-tmpfiles --create wakevirt-host.conf
"#;
const OVERCOMMIT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
const STATE: &str = "/run/wakevirt-host/state/state.json";

/// A guest with 64 MiB, in 32 huge pages.
const XML: &str = "<domain type='kvm'><name>NAME</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
    <memoryBacking><hugepages/></memoryBacking></domain>";

/// Boots a system with this configuration, and starts the service.
fn site<'host>(host: &'host Host, config: &str) -> Debian<'host> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write("/etc/wakevirt/host.toml", config);
    debian.boot();
    debian.sh(SYSFS);
    debian.sh("systemctl start wakevirt-host");
    debian
}

/// Calls libvirt's hook, as libvirt does.
fn hook(name: &str, operation: &str) -> String {
    let xml = XML.replace("NAME", name);
    format!("printf %s \"{xml}\" | /usr/sbin/wakevirt-hook '{name}' {operation} begin -\n")
}

/// The number of huge pages that the kernel can provide on demand.
fn overcommit(debian: &Debian<'_>) -> String {
    debian.sh(&format!("cat {OVERCOMMIT}")).trim().to_owned()
}

/// Waits until the service has handled all events.
fn wait_until_handled(debian: &Debian<'_>) {
    wait::until_true("the spool to become empty", || debian.sh("ls /run/wakevirt-host/spool").is_empty());
}

/// The state file.
fn state(debian: &Debian<'_>) -> String {
    debian.sh(&format!("cat {STATE}"))
}
