use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::desired::{desired, refusals};
use crate::model::{CpuSet, GIGANTIC, PageSize, Pool};

const MIB2: PageSize = PageSize(2048);

fn cpus(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn host() -> Topology {
    let units = ["system.slice", "user.slice", "init.scope", "machine-d1.scope"];
    Topology {
        possible: cpus("0-7"),
        online: cpus("0-5"),
        memory: [(0, 8 << 20), (1, 4 << 20)].into(),
        overcommit: [(MIB2, 3), (GIGANTIC, 0)].into(),
        pools: [(Pool { node: 0, size: GIGANTIC }, 1), (Pool { node: 1, size: GIGANTIC }, 0)].into(),
        default_page: Some(MIB2),
        allowed_cpus: units.map(|unit| (unit.to_owned(), CpuSet::default())).into(),
        machine_weight: Some(50),
        workqueue: cpus("0-7"),
        without_systemd: false,
    }
}

fn seconds(time: u64) -> Duration {
    Duration::from_secs(time)
}

fn event(time: u64, name: &str, change: Change) -> Event {
    Event { time: seconds(time), name: name.to_owned(), uuid: None, change }
}

fn gigantic(count: u64, nodes: &str) -> Needs {
    let nodes = Some(cpus(nodes)).filter(|nodes| !nodes.is_empty());
    Needs { pages: vec![PagesNeed { size: GIGANTIC, count, nodes }], ..Needs::default() }
}

fn play(events: &[Event]) -> Vec<Record> {
    let mut records = Vec::new();
    events.iter().for_each(|event| {
        apply(&mut records, event, &host());
    });
    records
}

#[test]
fn a_domain_is_prepared_runs_and_is_released() {
    let mut records = Vec::new();
    let needs = Needs { weight: Some(900), isolated: cpus("4-5"), ..Needs::default() };
    let mut phase = |time, change| {
        apply(&mut records, &event(time, "a", change), &host());
        records.first().map(|record: &Record| (record.phase, record.changed.as_secs()))
    };
    assert_eq!(phase(1, Change::Prepare(Some(needs.clone()))), Some((Phase::Prepared, 1)));
    assert_eq!(phase(2, Change::Running(Some(needs))), Some((Phase::Started, 2)));
    assert_eq!(phase(3, Change::Stopped), Some((Phase::Prepared, 3)));
    assert_eq!(phase(4, Change::Release), None);
}

#[test]
fn a_domain_without_settings_has_no_record() {
    assert!(play(&[event(1, "a", Change::Prepare(None)), event(2, "a", Change::Running(None))]).is_empty());
    // The configuration does not contain it any more.
    let events =
        [event(1, "a", Change::Running(Some(Needs::default()))), event(2, "a", Change::Prepare(None))];
    assert!(play(&events).is_empty());
}

#[test]
fn a_running_domain_keeps_the_needs_with_which_it_started() {
    let needs = |weight| Some(Needs { weight: Some(weight), ..Needs::default() });
    let events = [event(1, "a", Change::Prepare(needs(1))), event(2, "a", Change::Running(needs(2)))];
    assert_eq!(play(&events)[0].weight, Some(1));
    assert_eq!(play(&events[1..])[0].weight, Some(2), "its first event was lost");
}

#[test]
fn repeated_and_late_events_change_nothing() {
    let needs = || Some(Needs::default());
    let started = [event(5, "a", Change::Prepare(needs())), event(6, "a", Change::Running(needs()))];
    let before = play(&started);
    for late in [
        event(6, "a", Change::Running(needs())),
        event(5, "a", Change::Prepare(needs())),
        event(4, "a", Change::Release),
        event(4, "a", Change::Stopped),
        event(4, "a", Change::Gone),
        event(9, "b", Change::Stopped),
        event(9, "b", Change::Release),
    ] {
        assert_eq!(play(&[&started[..], &[late]].concat()), before);
    }
}

#[test]
fn a_record_without_a_process_is_dropped() {
    let running = event(5, "a", Change::Running(Some(Needs::default())));
    assert!(play(&[running, event(6, "a", Change::Gone)]).is_empty());
    let prepare = event(5, "a", Change::Prepare(Some(Needs::default())));
    let after = |time| play(&[prepare.clone(), event(time, "a", Change::Gone)]).len();
    assert_eq!((after(6), after(304), after(305)), (1, 1, 0));
}

#[test]
fn gigantic_pages_come_from_the_first_node_with_room() {
    let pages = |events: &[(&str, Needs)]| {
        let events = events.iter().zip(1..);
        let events: Vec<_> = events
            .map(|((name, needs), time)| event(time, name, Change::Prepare(Some(needs.clone()))))
            .collect();
        let last = play(&events).pop().unwrap();
        let pages = last.pages.iter().map(|it| (it.node.unwrap(), it.count)).collect::<Vec<_>>();
        pages_or(pages, &last.failures)
    };
    assert_eq!(pages(&[("a", gigantic(3, ""))]), Ok(vec![(0, 3)]));
    assert_eq!(pages(&[("a", gigantic(3, "1"))]), Ok(vec![(1, 3)]));
    assert_eq!(pages(&[("a", gigantic(6, "")), ("b", gigantic(2, ""))]), Ok(vec![(1, 2)]));
    assert_eq!(pages(&[("a", gigantic(9, "0-1"))]), Ok(vec![(0, 7), (1, 2)]));
    for (needs, expected) in [
        (gigantic(12, ""), "12 pages of 1 GiB are needed, but the host has memory for 11"),
        (gigantic(5, "1"), "5 pages of 1 GiB are needed, but NUMA node 1 has memory for 4"),
        (gigantic(1, "7"), "NUMA node 7 has memory for 0"),
        (gigantic(u64::MAX, ""), "memory for 11"),
    ] {
        let failures = pages(&[("a", needs)]).unwrap_err();
        assert!(failures[0].contains(expected), "{failures:?}");
    }
}

fn pages_or(pages: Vec<(u32, u64)>, failures: &[String]) -> Result<Vec<(u32, u64)>, Vec<String>> {
    if failures.is_empty() { Ok(pages) } else { Err(failures.to_vec()) }
}

#[test]
fn a_domain_that_stops_does_not_move_the_pages_of_another() {
    let prepare = |time, name, count| event(time, name, Change::Prepare(Some(gigantic(count, ""))));
    let records = play(&[prepare(1, "a", 6), prepare(2, "b", 2), event(3, "a", Change::Release)]);
    assert_eq!(records[0].pages[0].node, Some(1));
}

#[test]
fn all_huge_pages_together_fit_into_the_hosts_memory() {
    let small =
        |count| Needs { pages: vec![PagesNeed { size: MIB2, count, nodes: None }], ..Needs::default() };
    let prepare = |time, name, needs| event(time, name, Change::Prepare(Some(needs)));
    let records = play(&[prepare(1, "a", gigantic(9, "")), prepare(2, "b", small(1025))]);
    assert!(
        records[1].failures[0].contains("1025 pages of 2 MiB are needed, but the host has memory for 1024")
    );
    assert!(records[1].pages.is_empty());
    assert!(play(&[prepare(1, "a", small(u64::MAX))])[0].pages.is_empty());
}

#[test]
fn the_number_of_records_is_limited() {
    let prepare = |number| event(1, &format!("d{number}"), Change::Prepare(Some(Needs::default())));
    let events: Vec<_> = (0..MAX_RECORDS + 1).map(prepare).collect();
    assert_eq!(play(&events).len(), MAX_RECORDS);
}

mod needs {
    use super::*;

    const TABLE: &str =
        "[[domain]]\nmatch = \"win*\"\nprepare = [\"hugepages\", \"isolate\"]\nweight = 900\n";

    fn config() -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), TABLE).unwrap();
        Config::load(Some(file.path()), "wakevirt-host").unwrap()
    }

    fn needs(name: &str, content: &str) -> Option<Needs> {
        let xml = format!("<domain><name>ignored</name>{content}</domain>");
        match Event::read(Operation::Prepare, seconds(1), name, &xml, &config(), &host()).change {
            Change::Prepare(needs) => needs,
            change => panic!("{change:?}"),
        }
    }

    #[test]
    fn follow_the_definition_and_the_settings() {
        let content = "<memory unit='MiB'>5</memory><vcpu>3</vcpu><memoryBacking><hugepages/></memoryBacking>
            <cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3,9'/>
            <vcpupin vcpu='2' cpuset='0-5'/><vcpupin vcpu='3' cpuset='4'/>
            <emulatorpin cpuset='0'/><iothreadpin iothread='1' cpuset='1'/></cputune>";
        let expected = Needs {
            pages: vec![PagesNeed { size: MIB2, count: 3, nodes: None }],
            isolated: cpus("2-3"),
            weight: Some(900),
            ..Needs::default()
        };
        assert_eq!(needs("win11", content), Some(expected));
        assert_eq!(needs("linux", content), None);
    }

    #[test]
    fn name_what_the_definition_lacks() {
        let failures = |content: &str| needs("win11", content).unwrap().failures;
        let [pages, pins] = &failures("")[..] else { panic!("{:?}", failures("")) };
        assert!(pages.contains("no <hugepages>") && pins.contains("no vCPU is pinned"), "{pages} {pins}");
        let size = |size: &str| {
            failures(&format!(
                "<memory>1024</memory><memoryBacking><hugepages><page size='{size}' unit='KiB'/></hugepages></memoryBacking>
                 <vcpu cpuset='1'>1</vcpu>"
            ))
        };
        assert_eq!(size("16384"), ["hugepages: the host does not support pages of 16 MiB"]);
        assert!(size("4").is_empty(), "ordinary pages need no preparation");
        let long = needs(&format!("win{}", "ü".repeat(100)), "").unwrap().failures;
        assert!(long[0].contains("the name is too long for units"), "{long:?}");
    }

    #[test]
    fn contain_only_what_works_without_systemd() {
        let topology = Topology { without_systemd: true, ..host() };
        let name = format!("win{}", "ü".repeat(100));
        let xml = "<domain><memory unit='MiB'>5</memory><memoryBacking><hugepages/></memoryBacking>
            <vcpu>1</vcpu><cputune><vcpupin vcpu='0' cpuset='2'/></cputune></domain>";
        let event = Event::read(Operation::Prepare, seconds(1), &name, xml, &config(), &topology);
        let Change::Prepare(Some(needs)) = event.change else { panic!("{event:?}") };
        let missing =
            ["isolate", "weight"].map(|key| format!("{key}: needs systemd, which this host does not run"));
        let pages = vec![PagesNeed { size: MIB2, count: 3, nodes: None }];
        assert_eq!(needs, Needs { pages, failures: missing.into(), ..Needs::default() });
    }

    #[test]
    fn contain_the_failure_of_a_definition() {
        let event = Event::read(Operation::Started, seconds(1), "win11", "<", &config(), &host());
        let Change::Running(Some(needs)) = event.change else { panic!("{event:?}") };
        assert!(needs.failures[0].contains("not well-formed"), "{needs:?}");
        assert_eq!(needs.weight, Some(900));
        let event = Event::read(Operation::Prepare, seconds(1), "linux", "<", &config(), &host());
        assert_eq!(event.change, Change::Prepare(None));
    }
}

/// What a domain of a property test needs.
fn any_needs() -> impl Strategy<Value = Option<Needs>> {
    let set = vec(0_u32..8, 0..6).prop_map(|cpus| cpus.into_iter().collect::<CpuSet>());
    let pages =
        (select(vec![MIB2, GIGANTIC]), select(vec![0, 1, 3, 900, u64::MAX]), proptest::option::of(0_u32..3));
    let pages = pages.prop_map(|(size, count, node)| {
        let nodes = node.map(|node| CpuSet::from_iter([node]));
        PagesNeed { size, count, nodes }
    });
    let needs = (vec(pages, 0..3), set, proptest::option::of(1_u64..=10_000), any::<bool>()).prop_map(
        |(pages, isolated, weight, monitor)| Needs { pages, isolated, weight, monitor, ..Needs::default() },
    );
    proptest::option::of(needs)
}

/// One step: a change of one of four domains, and whether its event is lost, repeated, or delivered after the next ones.
fn any_step() -> impl Strategy<Value = (usize, Change, u8)> {
    let change = prop_oneof![
        any_needs().prop_map(Change::Prepare),
        any_needs().prop_map(Change::Running),
        Just(Change::Stopped),
        Just(Change::Release),
        Just(Change::Gone),
    ];
    (0_usize..4, change, 0_u8..4)
}

/// Checks what must be true in every state.
fn check(records: &[Record], topology: &Topology) {
    let state = desired(records, topology);
    let refused = refusals(records, topology);
    for (unit, cpus) in &state.allowed_cpus {
        assert!(cpus.is_empty() || !cpus.intersection(&topology.online).is_empty(), "{unit} has no CPU");
        for record in records.iter().filter(|it| !refused.contains_key(&it.name) && !it.isolated.is_empty()) {
            let common = cpus.intersection(&record.isolated);
            let is_own = record.scope.as_deref() == Some(unit);
            assert!(
                is_own || (!cpus.is_empty() && common.is_empty()) || is_of_another(records, unit),
                "{unit}: {cpus}"
            );
            assert!(!is_own || cpus.is_empty() || cpus.includes(&record.isolated), "{unit}: {cpus}");
        }
    }
    assert!(!state.workqueue.is_empty());
    let needed = |size| {
        let pages = records.iter().flat_map(|record| &record.pages).filter(|pages| pages.size == size);
        pages.map(|pages| pages.count).sum::<u64>()
    };
    assert!(state.overcommit[&MIB2] == topology.overcommit[&MIB2] + needed(MIB2));
    assert_eq!(state.pools.values().sum::<u64>(), topology.pools.values().sum::<u64>() + needed(GIGANTIC));
    let memory = needed(MIB2) * MIB2.0 + needed(GIGANTIC) * GIGANTIC.0;
    assert!(memory <= topology.memory.values().sum::<u64>());
    let names: std::collections::BTreeSet<_> = records.iter().map(|record| &record.name).collect();
    assert_eq!(names.len(), records.len(), "a domain has two records");
}

/// Whether a domain that isolates CPUs runs in this unit.
fn is_of_another(records: &[Record], unit: &str) -> bool {
    records.iter().any(|record| record.scope.as_deref() == Some(unit) && !record.isolated.is_empty())
}

proptest! {
    /// Any events of any domains, with losses, repetitions, delays and restarts of the service: when no QEMU process is
    /// left, the host is as before the first event.
    #[test]
    fn the_host_ends_as_it_was(
        steps in vec(any_step(), 0..40),
        restarts in vec(any::<Index>(), 0..4),
        found in vec(any::<Index>(), 0..4),
    ) {
        let topology = host();
        let mut events = Vec::new();
        for ((domain, change, fate), time) in steps.into_iter().zip(1..) {
            let event = event(time * 60, &format!("d{domain}"), change);
            match fate {
                0 => {}
                1 => events.extend([event.clone(), event]),
                2 => events.insert(events.len().saturating_sub(3), event),
                _ => events.push(event),
            }
        }
        let at = |indexes: &[Index], position| indexes.iter().any(|index| index.index(events.len() + 1) == position);
        let mut records = Vec::new();
        for (position, event) in events.iter().enumerate() {
            apply(&mut records, event, &topology);
            if at(&found, position) {
                records.iter_mut().for_each(|record: &mut Record| {
                    record.scope = Some(format!("machine-{}.scope", record.name));
                });
            }
            if at(&restarts, position) {
                records = serde_json::from_str(&serde_json::to_string(&records).unwrap()).unwrap();
            }
            check(&records, &topology);
        }
        let end = events.len() as u64 * 60 + 7200;
        for record in records.clone() {
            apply(&mut records, &event(end, &record.name, Change::Gone), &topology);
            check(&records, &topology);
        }
        prop_assert!(records.is_empty());
        prop_assert_eq!(desired(&records, &topology), desired(&[], &topology));
    }

    /// The order in which the events of different domains arrive does not matter for what each domain gets, if the host
    /// has enough for all of them.
    #[test]
    fn domains_do_not_depend_on_each_other(order in Just(vec![0_u64, 1, 2, 3]).prop_shuffle()) {
        let needs = |domain: u64| Needs {
            pages: vec![PagesNeed { size: MIB2, count: 100, nodes: None }],
            isolated: CpuSet::from_iter([u32::try_from(domain).unwrap()]),
            weight: Some(100 + domain),
            ..Needs::default()
        };
        let state = |order: &[u64]| {
            let prepare = |domain: &u64| event(1, &format!("d{domain}"), Change::Prepare(Some(needs(*domain))));
            let records = play(&order.iter().map(prepare).collect::<Vec<_>>());
            assert!(refusals(&records, &host()).is_empty());
            desired(&records, &host())
        };
        prop_assert_eq!(state(&order), state(&[0, 1, 2, 3]));
    }
}
