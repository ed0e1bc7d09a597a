//! An entry in the spool of wakevirt-host: its XML is rejected, or the state of the host that it leads to is one in
//! which the host keeps a CPU and huge pages fit into its memory.

#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use wakevirt_host::config::{Preparation, Settings};
use wakevirt_host::definition::Definition;
use wakevirt_host::desired::desired;
use wakevirt_host::model::{CpuSet, GIGANTIC, PageSize, Pool, Topology};
use wakevirt_host::records::{Change, Event, Needs, apply};
use wakevirt_protocol::host::entry_parts;

fn host() -> Topology {
    Topology {
        possible: (0..8).collect(),
        online: (0..6).collect(),
        memory: [(0, 8 << 20), (1, 4 << 20)].into(),
        overcommit: [(PageSize(2048), 0), (GIGANTIC, 0)].into(),
        pools: [0, 1].map(|node| (Pool { node, size: GIGANTIC }, 0)).into(),
        default_page: Some(PageSize(2048)),
        allowed_cpus: [("system.slice".to_owned(), CpuSet::default())].into(),
        ..Topology::default()
    }
}

fuzz_target!(|entry: &[u8]| {
    let Some((name, xml)) = entry_parts(entry) else { return };
    assert!(!name.contains(&0));
    let (Ok(name), Ok(xml)) = (str::from_utf8(name), str::from_utf8(xml)) else { return };
    let Ok(definition) = Definition::read(xml) else { return };
    let prepare = BTreeSet::from([Preparation::Hugepages, Preparation::Isolate]);
    let settings = Settings { prepare, ..Settings::default() };
    let topology = host();
    let needs = Needs::new(name, &definition, &settings, &topology);
    let change = Change::Prepare(Some(needs));
    let event = Event { time: Duration::from_secs(1), name: name.to_owned(), uuid: definition.uuid, change };
    let mut records = Vec::new();
    apply(&mut records, &event, &topology);
    let state = desired(&records, &topology);
    let cpus = &state.allowed_cpus["system.slice"];
    assert!(cpus.is_empty() || !cpus.intersection(&topology.online).is_empty());
    let small = state.overcommit[&PageSize(2048)] * 2048;
    let gigantic = state.pools.values().sum::<u64>() * GIGANTIC.0;
    assert!(small + gigantic <= topology.memory.values().sum::<u64>());
});
