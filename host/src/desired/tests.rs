use core::time::Duration;

use super::*;
use crate::model::{NodeId, PageSize, Pages};

fn cpus(text: &str) -> CpuSet {
    text.parse().unwrap()
}

const MIB2: PageSize = PageSize(2048);
const GIB1: PageSize = PageSize(1 << 20);

/// A host with eight CPUs, of which six are online, and two nodes.
fn host() -> Topology {
    let units = [("system.slice", ""), ("user.slice", "0-3"), ("init.scope", "")];
    Topology {
        possible: cpus("0-7"),
        online: cpus("0-5"),
        memory: [(0, 8 << 20), (1, 8 << 20)].into(),
        overcommit: [(MIB2, 3), (GIB1, 0)].into(),
        pools: [(Pool { node: 0, size: GIB1 }, 1), (Pool { node: 1, size: GIB1 }, 0)].into(),
        default_page: Some(MIB2),
        allowed_cpus: units.map(|(unit, set)| (unit.to_owned(), cpus(set))).into(),
        machine_weight: None,
        workqueue: cpus("0-7"),
        without_systemd: false,
    }
}

fn record(name: &str) -> Record {
    let scope = Some(format!("machine-{name}.scope"));
    Record { scope, ..Record::new(name, Phase::Started, Duration::ZERO) }
}

fn isolating(name: &str, set: &str) -> Record {
    Record { isolated: cpus(set), ..record(name) }
}

fn allowed(records: &[Record], topology: &Topology) -> Vec<String> {
    let state = desired(records, topology);
    state.allowed_cpus.iter().map(|(unit, cpus)| format!("{unit}={cpus}")).collect()
}

#[test]
fn without_records_the_host_is_as_before() {
    let state = desired(&[], &host());
    let Topology { overcommit, pools, allowed_cpus, machine_weight, workqueue, .. } = host();
    let units = BTreeSet::new();
    assert_eq!(state, HostState { overcommit, pools, allowed_cpus, machine_weight, workqueue, units });
}

#[test]
fn pages_of_all_domains_are_added_to_the_values_before() {
    let pages = |size, count, node: Option<NodeId>| Pages { size, count, node };
    let a = Record { pages: vec![pages(MIB2, 100, None), pages(GIB1, 2, Some(1))], ..record("a") };
    let b = Record { pages: vec![pages(MIB2, 7, None), pages(GIB1, 3, Some(0))], ..record("b") };
    let state = desired(&[a, b], &host());
    assert_eq!(state.overcommit, [(MIB2, 110), (GIB1, 0)].into());
    assert_eq!(state.pools.into_values().collect::<Vec<_>>(), [4, 2]);
}

#[test]
fn isolated_cpus_are_removed_from_all_other_units() {
    let mut host = host();
    for guest in ["a", "b", "c"] {
        host.allowed_cpus.insert(format!("machine-{guest}.scope"), CpuSet::default());
    }
    let records = [isolating("a", "4-5"), isolating("b", "3"), record("c")];
    assert_eq!(
        allowed(&records, &host),
        [
            "init.scope=0-2,6-7",
            "machine-a.scope=0-2,4-7",
            "machine-b.scope=0-3,6-7",
            "machine-c.scope=0-2,6-7",
            "system.slice=0-2,6-7",
            "user.slice=0-2",
        ]
    );
    assert_eq!(desired(&records, &host).workqueue, cpus("0-2,6-7"));
    let first_stopped = records.split_first().unwrap().1;
    assert_eq!(
        allowed(first_stopped, &host),
        [
            "init.scope=0-2,4-7",
            "machine-a.scope=0-2,4-7",
            "machine-b.scope=",
            "machine-c.scope=0-2,4-7",
            "system.slice=0-2,4-7",
            "user.slice=0-2",
        ]
    );
}

#[test]
fn the_last_online_cpu_stays_with_the_host() {
    let (first, second) = (isolating("a", "1-3"), isolating("b", "0,4-5"));
    let records = [first.clone(), second.clone()];
    assert_eq!(desired(&records, &host()).allowed_cpus, desired(&[first], &host()).allowed_cpus);
    let refused = refusals(&records, &host());
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["b"]);
    assert!(refused["b"].contains("CPUs 0,4-5 cannot be isolated"), "{refused:?}");
    // user.slice had only the CPUs 0 to 3.
    let refused = refusals(&[isolating("c", "0-3")], &host());
    assert!(refused["c"].contains("user.slice"), "{refused:?}");
    // When the first domain stops, the second gets its CPUs.
    assert!(refusals(&[second], &host()).is_empty());
}

#[test]
fn a_host_without_units_to_narrow_keeps_a_cpu_too() {
    let host = Topology { allowed_cpus: BTreeMap::new(), ..host() };
    assert!(refusals(&[isolating("a", "0-5")], &host)["a"].contains("the host would not have a CPU"));
}

#[test]
fn the_highest_weight_counts() {
    let weighing = |name, weight| Record { weight, ..record(name) };
    let weight = |records: &[Record], before| {
        desired(records, &Topology { machine_weight: before, ..host() }).machine_weight
    };
    let records = [weighing("a", Some(900)), weighing("b", Some(200)), weighing("c", None)];
    assert_eq!(weight(&records, Some(1000)), Some(900));
    assert_eq!(weight(&[weighing("c", None)], Some(1000)), Some(1000));
    assert_eq!(weight(&[], None), None);
}

#[test]
fn units_follow_the_phase() {
    let units = |phase, monitor| {
        let record = Record { phase, monitor, ..record("my win-11") };
        desired(&[record], &host()).units.into_iter().collect::<Vec<_>>()
    };
    let prepare = r"wakevirt-prepare@my\x20win\x2d11.target";
    let domain = r"wakevirt-domain@my\x20win\x2d11.target";
    assert_eq!(units(Phase::Prepared, true), [prepare]);
    assert_eq!(units(Phase::Started, false), [domain, prepare]);
    assert_eq!(units(Phase::Started, true), [domain, r"wakevirt-monitor@my\x20win\x2d11.service", prepare]);
    assert!(desired(&[record(&"ü".repeat(100))], &host()).units.is_empty());
}

#[test]
fn drop_ins_are_removed_when_no_domain_changes_slices() {
    let changes = |records: &[Record]| desired(records, &host()).units.contains(DROP_INS);
    let isolated = Record { isolated: cpus("3"), ..record("a") };
    let weighing = Record { weight: Some(100), ..record("b") };
    assert!(changes(&[record("c"), isolated]) && changes(&[weighing]));
    assert!(!changes(&[record("c")]) && !changes(&[]));
}

#[test]
fn a_host_without_systemd_has_no_units() {
    let topology = Topology { without_systemd: true, ..host() };
    assert_eq!(desired(&[record("a")], &topology).units, BTreeSet::new());
    assert_ne!(desired(&[record("a")], &host()).units, BTreeSet::new());
}

#[test]
fn a_refused_domain_gets_its_cpus_when_another_stops() {
    let mut records = vec![isolating("a", "2-7"), isolating("b", "0-1")];
    let news = update_refusals(&mut records, &host());
    assert!(matches!(&news[..], [(name, Some(_))] if name == "b"), "{news:?}");
    assert_eq!((records[0].own_cpus(), records[1].own_cpus()), (cpus("2-7"), CpuSet::default()));
    assert_eq!(update_refusals(&mut records, &host()), []);
    records.remove(0);
    assert_eq!(update_refusals(&mut records, &host()), [("b".to_owned(), None)]);
    assert_eq!(records[0].own_cpus(), cpus("0-1"));
    assert_eq!(desired(&records, &host()).allowed_cpus["system.slice"], cpus("2-7"));
}
