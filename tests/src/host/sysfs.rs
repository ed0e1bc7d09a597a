//! Files in place of the parts of sysfs that wakevirt-host writes, which is read-only on a host; and an event that makes
//! the service write them.

/// A shell script that mounts the files. They have a node with 4 GiB and no huge pages, and belong to root.
pub const REPLACE: &str = r#"
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
"#;

/// The file with the number of huge pages of 2 MiB that the kernel can provide on demand.
pub const OVERCOMMIT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";

/// The command of libvirt's hook for an event of a guest with 64 MiB in 32 huge pages, as libvirt runs it.
#[must_use]
pub fn hook(name: &str, operation: &str) -> String {
    let xml = format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <memoryBacking><hugepages/></memoryBacking></domain>"
    );
    format!("printf %s \"{xml}\" | /usr/sbin/wakevirt-hook '{name}' {operation} begin -\n")
}
