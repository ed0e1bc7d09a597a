use std::fs::{create_dir_all, read_to_string, write};

use tempfile::TempDir;

use super::*;

const SIZE: PageSize = PageSize(2048);
const POOL: Pool = Pool { node: 0, size: SIZE };

/// Files as in sysfs, with a surplus of huge pages on the first node.
fn host() -> (TempDir, Sysfs) {
    let directory = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("proc/meminfo", "MemTotal:       16000000 kB\nHugepagesize:       2048 kB\n"),
        ("sys/devices/system/cpu/possible", "0-7\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/virtual/workqueue/cpumask", "ff\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages", "3\n"),
        ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       8000000 kB\n"),
        ("sys/devices/system/node/node0/compact", ""),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "10\n"),
        ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/surplus_hugepages", "4\n"),
        ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       8000000 kB\n"),
        ("sys/devices/system/node/node1/compact", ""),
        ("sys/devices/system/node/has_cpu", "0-1\n"),
    ] {
        let path = directory.path().join(file);
        create_dir_all(path.parent().unwrap()).unwrap();
        write(path, text).unwrap();
    }
    let sysfs = Sysfs::below(directory.path());
    (directory, sysfs)
}

#[test]
fn reads_what_the_host_has() {
    let (directory, sysfs) = host();
    let topology = sysfs.topology().unwrap();
    assert_eq!((topology.possible.to_string(), topology.online.to_string()), ("0-7".into(), "0-3".into()));
    assert_eq!(topology.memory, [(0, 8_000_000), (1, 8_000_000)].into());
    assert_eq!(topology.overcommit, [(SIZE, 3)].into());
    assert_eq!(topology.pools, [(POOL, 6)].into(), "the surplus is not a part of the pool");
    assert_eq!((topology.default_page, topology.workqueue.to_string()), (Some(SIZE), "0-7".to_owned()));
    assert!(topology.without_systemd);
    create_dir_all(directory.path().join(SYSTEMD)).unwrap();
    assert!(!sysfs.topology().unwrap().without_systemd);
    write(directory.path().join(WORKQUEUE), "x").unwrap();
    let error = sysfs.topology().unwrap_err().to_string();
    assert!(error.contains("cpumask: its content \"x\" is unknown"), "{error}");
}

#[test]
fn changes_only_files_that_exist() {
    let (directory, sysfs) = host();
    sysfs.set_workqueue(&"0-1".parse().unwrap()).unwrap();
    assert_eq!(read_to_string(directory.path().join(WORKQUEUE)).unwrap(), "00000003");
    sysfs.compact_all().unwrap();
    assert_eq!(read_to_string(directory.path().join(NODES).join("node1/compact")).unwrap(), "1");
    let pool = Pool { node: 1, size: SIZE };
    let error = sysfs.set_pool(pool, 0, 1).unwrap_err().to_string();
    assert!(error.contains("cannot write 1 to") && error.contains("No such file"), "{error}");
}

#[test]
fn an_attempt_leaves_the_pool_as_it_was() {
    let (directory, sysfs) = host();
    // A file contains what is written to it, so all pages seem to exist.
    write(directory.path().join(pool_file(POOL)), "6").unwrap();
    write(directory.path().join(pool_file(POOL).replace("nr_", "surplus_")), "0").unwrap();
    sysfs.set_overcommit(SIZE, 3, 5).unwrap();
    assert_eq!(sysfs.number(&overcommit_file(SIZE)).unwrap(), 5);
    assert_eq!(read_to_string(directory.path().join(pool_file(POOL))).unwrap(), "6");
}

#[test]
fn errors_say_how_many_pages_are_missing() {
    let error = PagesError::TooFew { size: PageSize(1 << 20), node: Some(1), needed: 4, got: 3 };
    let text = "the host has only 3 of 4 free huge pages of 1 GiB on NUMA node 1; ";
    assert!(error.to_string().starts_with(text), "{error}");
}
