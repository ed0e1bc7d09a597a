//! Huge pages, with the kernel of a virtual machine.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::vm::{Domain, Vm};

const OVERCOMMIT: &str = "kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";

const CONFIGURATION: &str = "
prepare-wait = '2m'
[[domain]]
match = 'pages*'
prepare = ['hugepages']
[[domain]]
match = 'required*'
prepare = ['hugepages']
require = true
[[domain]]
match = 'compact'
prepare = ['compact']
";

/// On the second NUMA node only.
const SECOND_NODE: &str = "<numatune><memory mode='strict' nodeset='1'/></numatune>";

/// Mounts the file system of pages of 1 GiB, which libvirt needs. systemd mounts only that of the default size.
const MOUNT: &str = "
mkdir /dev/hugepages1G
mount -t hugetlbfs -o pagesize=1G hugetlbfs /dev/hugepages1G
";

/// Maps most of the memory, and gives back every second page of 4 KiB.
const FRAGMENT: &str = "
import mmap, time
free = next(line for line in open('/proc/meminfo') if line.startswith('MemAvailable')).split()[1]
size = (int(free) // 1024 - 300) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory.madvise(23) # MADV_POPULATE_WRITE
for page in range(0, size, 2 * 4096):
    memory.madvise(mmap.MADV_DONTNEED, page, 4096)
open('/run/fragmented', 'w').close()
time.sleep(1e6)
";

/// Fills memory with the page cache of a file, of which 1 GiB is not written to the disk yet. These pages become dirty in the
/// second step, which needs no memory: the kernel writes all dirty pages when it reclaims memory and finds mostly these.
const FILL_PAGE_CACHE: &str = "
sysctl --quiet --write vm.dirty_ratio=95 vm.dirty_background_ratio=90 vm.dirty_expire_centisecs=360000
free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
dd if=/dev/zero of=/var/tmp/dirty bs=1M count=$((free - 200)) conv=fsync status=none
dd if=/dev/zero of=/var/tmp/dirty bs=1M count=1024 seek=$((free - 1300)) conv=notrunc status=none
awk '/^Dirty|^MemFree/ { print $2 }' /proc/meminfo
";

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn huge_pages_exist_while_a_domain_runs() {
    privileged!();
    let host = Host::new();
    let mut vm = Vm::boot(&host);
    vm.without_apparmor();
    vm.prepare_host(CONFIGURATION);
    vm.define(&Domain::new("pages-2m").mebibytes(512).huge_pages(2, "M"));
    vm.define(&Domain::new("required").mebibytes(4300).huge_pages(2, "M"));
    vm.define(&Domain::new("other").mebibytes(256).huge_pages(2, "M"));
    vm.define(&Domain::new("pages-1g").mebibytes(1024).huge_pages(1, "G").settings(SECOND_NODE));
    vm.define(&Domain::new("required-1g").mebibytes(3072).huge_pages(1, "G").settings(SECOND_NODE));
    vm.define(&Domain::new("plain"));
    vm.define(&Domain::new("compact"));
    let before = vm.values();

    one_gibibyte_on_a_node(&mut vm);
    vm.wait_for_values(&before);
    // The node has 3.5 GiB, but not three whole GiB that nothing else uses.
    a_shortage_is_reported(&mut vm, "required-1g", "free huge pages of 1 GiB on NUMA node 1");
    two_mebibytes_despite_a_full_page_cache(&mut vm);
    vm.wait_for_values(&before);
    a_shortage_is_reported(&mut vm, "required", "free huge pages of 2 MiB");
    memory_is_compacted(&mut vm);
    vm.wait_for_values(&before);
}

fn one_gibibyte_on_a_node(vm: &mut Vm) {
    vm.sh(MOUNT);
    vm.sh("systemctl restart libvirtd.service");
    vm.virsh("start pages-1g");
    let pool =
        |node: u32| format!("devices/system/node/node{node}/hugepages/hugepages-1048576kB/nr_hugepages");
    assert_eq!((vm.value(&pool(0)), vm.value(&pool(1))), ("0".to_owned(), "1".to_owned()));
    let unused = vm.sh("cat /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages");
    assert_eq!(unused, "0\n", "the domain does not use the page");
    vm.virsh("destroy pages-1g");
}

/// The free memory in blocks of 2 MiB or more, in MiB.
fn large_blocks(vm: &mut Vm) -> u32 {
    let blocks = vm.sh("awk '{ sum += $(NF - 1) * 2 + $NF * 4 } END { print sum }' /proc/buddyinfo");
    blocks.trim().parse().expect("a number")
}

fn memory_is_compacted(vm: &mut Vm) {
    vm.write("/root/fragment.py", FRAGMENT);
    vm.sh("systemd-run --quiet --unit=fragment python3 /root/fragment.py
           timeout 200 sh -c 'until [ -e /run/fragmented ]; do sleep 0.2; done'");
    vm.virsh("start plain");
    let fragmented = large_blocks(vm);
    vm.virsh("start compact");
    let compacted = large_blocks(vm);
    // About 2 GiB are free in both cases.
    assert!(fragmented < 1024 && compacted > fragmented + 512, "{fragmented} MiB, then {compacted} MiB");
    vm.virsh("destroy plain");
    vm.virsh("destroy compact");
    vm.sh("systemctl stop fragment");
}

fn two_mebibytes_despite_a_full_page_cache(vm: &mut Vm) {
    // Without the preparation, the domain does not start.
    let other = vm.run("virsh --connect qemu:///system start other");
    assert!(other.status != 0 && other.output.contains("allocate memory"), "{other:?}");
    let output = vm.sh(FILL_PAGE_CACHE);
    let kibibytes: Vec<u64> = output.split_whitespace().map(|it| it.parse().expect("a number")).collect();
    let [free, dirty] = kibibytes[..] else { panic!("unexpected output {output:?}") };
    assert!(free < 448 << 10 && dirty > 512 << 10, "{free} KiB are free, {dirty} KiB are dirty");
    vm.virsh("start pages-2m");
    assert_eq!(vm.value(OVERCOMMIT), "256");
    let in_use = vm.sh("cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    assert_eq!(in_use, "256\n");
    vm.virsh("destroy pages-2m");
    vm.sh("rm /var/tmp/dirty");
}

fn a_shortage_is_reported(vm: &mut Vm, domain: &str, reason: &str) {
    let before = vm.values();
    let start = vm.run(&format!("virsh --connect qemu:///system start {domain}"));
    assert_ne!(start.status, 0, "{start:?}");
    vm.wait_for_values(&before);
    let status = vm.run("wakevirtctl host status").output;
    assert!(status.contains(reason), "{status}");
}
