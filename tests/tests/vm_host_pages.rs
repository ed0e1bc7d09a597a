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
match = 'required'
prepare = ['hugepages']
require = true
";

/// Fills memory with the page cache of a file that is not written to the disk yet.
const FILL_PAGE_CACHE: &str = "
sysctl --quiet --write vm.dirty_ratio=95 vm.dirty_background_ratio=90 vm.dirty_expire_centisecs=360000
free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
dd if=/dev/zero of=/var/tmp/dirty bs=1M count=$((free - 200)) status=none
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
    vm.define(&Domain::new("pages-2m").mebibytes(256).huge_pages(2, "M"));
    vm.define(&Domain::new("required").mebibytes(4300).huge_pages(2, "M"));
    vm.define(&Domain::new("other").mebibytes(256).huge_pages(2, "M"));
    let before = vm.values();

    two_mebibytes_despite_a_full_page_cache(&mut vm);
    assert_eq!(vm.values(), before);
    a_shortage_is_reported(&mut vm);
    assert_eq!(vm.values(), before);
}

fn two_mebibytes_despite_a_full_page_cache(vm: &mut Vm) {
    // Without the preparation, the domain does not start.
    let other = vm.run("virsh --connect qemu:///system start other");
    assert!(other.status != 0 && other.output.contains("allocate memory"), "{other:?}");
    let output = vm.sh(FILL_PAGE_CACHE);
    let kibibytes: Vec<u64> = output.split_whitespace().map(|it| it.parse().expect("a number")).collect();
    let [free, dirty] = kibibytes[..] else { panic!("unexpected output {output:?}") };
    assert!(free < 768 << 10 && dirty > 256 << 10, "{free} KiB are free, {dirty} KiB are dirty");
    vm.virsh("start pages-2m");
    assert_eq!(vm.value(OVERCOMMIT), "128");
    let in_use = vm.sh("cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    assert_eq!(in_use, "128\n");
    vm.virsh("destroy pages-2m");
    vm.sh("rm /var/tmp/dirty");
}

fn a_shortage_is_reported(vm: &mut Vm) {
    let before = vm.values();
    let required = vm.run("virsh --connect qemu:///system start required");
    assert_ne!(required.status, 0, "{required:?}");
    assert_eq!(vm.values(), before);
    let status = vm.run("wakevirtctl host status").output;
    assert!(status.contains("free huge pages of 2 MiB"), "{status}");
}
