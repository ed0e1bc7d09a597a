use std::collections::BTreeSet;
use std::path::PathBuf;

use wakevirt_host::config::Config;
use wakevirt_host::definition::Definition;
use wakevirt_host::model::{CpuSet, PageSize, Topology};
use wakevirt_host::sleep::Abilities;

use super::super::guests::Guest;
use super::super::preview::Preview;
use super::observe::{Configured, Daemon, Hook, mounts};
use super::*;
use crate::verbs::caller::Caller;
use crate::verbs::units::parse;

const TWO: PageSize = PageSize(2048);

/// A definition that has everything.
const GOOD: &str =
    "<memory unit='MiB'>512</memory><vcpu>2</vcpu><memoryBacking><hugepages/></memoryBacking><cputune>
  <vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/><emulatorpin cpuset='0-1'/></cputune>
  <devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>";

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

/// A host without problems.
fn good() -> Seen {
    let topology = Topology {
        possible: cpus("0-7"),
        online: cpus("0-7"),
        memory: [(0, 1 << 20)].into(),
        overcommit: [(TWO, 0)].into(),
        default_page: Some(TWO),
        allowed_cpus: [("system.slice".to_owned(), cpus("0-7"))].into(),
        workqueue: cpus("0-7"),
        ..Topology::default()
    };
    let unit = |name: &str| {
        format!(
            "Id={name}\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n\n"
        )
    };
    let units = ["host", "sleep", "suspend", "shutdown"].map(|it| unit(&format!("wakevirt-{it}.service")));
    Seen {
        preview: Preview { topology, records: Vec::new() },
        has_tables: true,
        units: parse(&units.concat()),
        caller: Caller::Root,
        apparmor: true,
        hook: Hook { target: Some(PathBuf::from("/usr/sbin/wakevirt-hook")), created: 5 },
        daemons: vec![Daemon { unit: "libvirtd.service", read_hooks: 6 }],
        mounts: [TWO].into(),
        controllers: "cpuset cpu io memory".to_owned(),
        ddcutil: true,
        ..Seen::default()
    }
}

/// Adds a domain with these keys and this definition.
fn add(seen: &mut Seen, name: &str, keys: &str, content: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("host.toml");
    std::fs::write(&file, format!("[[domain]]\nmatch = \"*\"\n{keys}\n")).unwrap();
    let config = Config::load(Some(&file), "root").unwrap();
    let guest = Guest { name: name.to_owned(), uuid: None };
    let xml = format!("<domain><name>{name}</name>{content}</domain>");
    seen.domains.push(Configured {
        settings: config.settings_for(name, None).unwrap(),
        needs: seen.preview.needs(&config, &guest, &xml).unwrap(),
        definition: Definition::read(&xml).ok(),
        abilities: Abilities::read(&xml).ok(),
        guest,
    });
}

/// The checks and problems that are found for one domain on a host.
fn found(change: impl Fn(&mut Seen), keys: &str, content: &str) -> Vec<(&'static str, String)> {
    let mut seen = good();
    change(&mut seen);
    add(&mut seen, "win11", keys, content);
    diagnose(&seen).findings.into_iter().map(|finding| (finding.check, finding.problem)).collect()
}

const ALL: &str = "prepare = [\"hugepages\", \"isolate\"]\nweight = 900\nsleep = \"suspend\"\nshutdown = \"save\"\n\
    nosleep = true\nmonitor = { serial = \"A\", vm = 1, host = 2 }";

#[test]
fn finds_nothing_on_a_good_host() {
    assert_eq!(found(|_| (), ALL, GOOD), []);
    let mut seen = good();
    add(&mut seen, "win11", ALL, GOOD);
    let diagnosis = diagnose(&seen);
    assert!(diagnosis.healthy);
    assert_eq!(diagnosis.works, ["the host can be prepared for win11"]);
}

#[test]
fn finds_problems_of_the_installation() {
    type Change = fn(&mut Seen);
    let unit = |seen: &mut Seen, lines: &str| {
        seen.units.extend(parse(&format!("Id=wakevirt-host.service\n{lines}\n")));
    };
    let cases: [(Change, &str); 10] = [
        (|seen| seen.hook.target = None, "host-hook-missing"),
        (|seen| seen.hook.target = Some("/usr/libexec/wakevirt-hook".into()), "host-hook-denied"),
        (|seen| seen.hook.created = 7, "host-hook-unread"),
        (|seen| seen.has_tables = false, "host-unconfigured"),
        (|seen| seen.unmatched = vec!["x".to_owned()], "host-table-unused"),
        (|seen| seen.mounts = BTreeSet::new(), "host-hugetlbfs-missing"),
        (|seen| seen.controllers = "cpu".to_owned(), "host-controller-missing"),
        (|seen| seen.controllers = "cpuset".to_owned(), "host-controller-missing"),
        (|seen| seen.ddcutil = false, "host-ddcutil-missing"),
        (|seen| seen.preview.topology.memory = [(0, 1024)].into(), "host-preparation"),
    ];
    for (change, expected) in cases {
        let found = found(change, ALL, GOOD);
        assert!(found.len() == 1 && found[0].0 == expected, "{expected}: {found:?}");
    }
    for (lines, expected) in [
        ("LoadState=not-found\nActiveState=inactive", "host-service-absent"),
        ("LoadState=masked\nActiveState=inactive", "host-service-masked"),
        ("LoadState=loaded\nActiveState=failed\nUnitFileState=enabled", "host-service-stopped"),
        ("LoadState=loaded\nActiveState=active\nUnitFileState=disabled", "host-service-disabled"),
    ] {
        let found = found(|seen| unit(seen, lines), ALL, GOOD);
        assert!(found.len() == 1 && found[0].0 == expected, "{expected}: {found:?}");
    }
    // Without AppArmor, and if libvirt is not running, these are not problems.
    let other = |seen: &mut Seen| {
        seen.apparmor = false;
        seen.hook.target = Some("/opt/wakevirt-hook".into());
        seen.daemons.clear();
    };
    assert_eq!(found(other, ALL, GOOD), []);
}

#[test]
fn finds_problems_of_definitions() {
    let without = |element: &str| GOOD.replace(element, "");
    let isolate = "prepare = [\"isolate\"]";
    for (keys, content, expected, text) in [
        (isolate, without("<emulatorpin cpuset='0-1'/>"), "host-emulator-unpinned", "CPUs 2-3"),
        (isolate, GOOD.replace("cpuset='0-1'", "cpuset='1-2'"), "host-emulator-isolated", "CPUs 2"),
        (isolate, without("<vcpupin vcpu='1' cpuset='3'/>"), "host-vcpus-unpinned", "such as vCPU 1"),
        (isolate, "<memory>1</memory>".to_owned(), "host-preparation", "no vCPU is pinned"),
        (
            "prepare = [\"hugepages\"]",
            GOOD.replace("<hugepages/>", "<hugepages><page size='1' unit='GiB'/></hugepages>"),
            "host-preparation",
            "does not support pages of 1 GiB",
        ),
        ("weight = 100", GOOD.to_owned(), "host-weight-default", "the default"),
        ("sleep = \"suspend\"", without("org.qemu.guest_agent.0"), "host-sleep", "guest agent"),
        (
            "sleep = \"hibernate\"",
            format!("{GOOD}<pm><suspend-to-disk enabled='no'/></pm>"),
            "host-sleep",
            "<pm> disables S4",
        ),
    ] {
        let found = found(|_| (), keys, &content);
        assert!(
            found.len() == 1 && found[0].0 == expected && found[0].1.contains(text),
            "{expected}, {text}: {found:?}"
        );
    }
}

#[test]
fn finds_domains_that_isolate_the_same_cpus() {
    let mut seen = good();
    add(&mut seen, "a", "prepare = [\"isolate\"]", GOOD);
    add(&mut seen, "b", "prepare = [\"isolate\"]", &GOOD.replace("cpuset='2'", "cpuset='4'"));
    let findings = diagnose(&seen).findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].problem, "a and b isolate the same CPUs 3, and share them if both run");
}

#[test]
fn reads_page_sizes_of_mounts() {
    let text = "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\ntmpfs /run tmpfs rw 0 0\n\
                none /g hugetlbfs rw,pagesize=1024M,size=1024M 0 0\nnone /d hugetlbfs rw 0 0\n";
    assert_eq!(mounts(text, Some(PageSize(64))), [PageSize(64), TWO, PageSize(1 << 20)].into());
}
