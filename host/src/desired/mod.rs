//! The pure function from the records of active domains to the state that the host should be in.

use std::collections::{BTreeMap, BTreeSet};

use wakevirt_service::unit_name::{MAX_UNIT_NAME, systemd_escape};

use crate::model::{CpuSet, DROP_INS, HostState, Phase, Pool, Record, Topology};

/// Returns the state that the host should be in while these domains are active. Without records, it is the state before
/// the first domain.
#[must_use]
pub fn desired(records: &[Record], topology: &Topology) -> HostState {
    let isolation = Isolation::new(records, topology);
    let mut state = HostState {
        overcommit: topology.overcommit.clone(),
        pools: topology.pools.clone(),
        allowed_cpus: isolation.allowed_cpus(topology),
        machine_weight: records.iter().filter_map(|record| record.weight).max().or(topology.machine_weight),
        workqueue: isolation.workqueue(topology),
        units: if topology.without_systemd { BTreeSet::new() } else { units(records) },
    };
    for pages in records.iter().flat_map(|record| &record.pages) {
        let value = match pages.node {
            Some(node) => state.pools.get_mut(&Pool { node, size: pages.size }),
            None => state.overcommit.get_mut(&pages.size),
        };
        if let Some(value) = value {
            *value = value.saturating_add(pages.count);
        }
    }
    state
}

/// The failures of each record that depend on the other records, by the domain's name: its CPUs cannot be isolated,
/// because the host would have none.
#[must_use]
pub fn refusals(records: &[Record], topology: &Topology) -> BTreeMap<String, String> {
    Isolation::new(records, topology).refusals
}

/// Updates the refusals of the records. Returns the names of those whose refusal has changed, and the refusal.
pub fn update_refusals(records: &mut [Record], topology: &Topology) -> Vec<(String, Option<String>)> {
    let mut refusals = refusals(records, topology);
    let mut changes = Vec::new();
    for record in records {
        let refusal = refusals.remove(&record.name);
        if refusal != record.refusal {
            record.refusal.clone_from(&refusal);
            changes.push((record.name.clone(), refusal));
        }
    }
    changes
}

/// The records, in the order of their starts, whose CPUs can be isolated. If CPUs do not suffice, the domain that
/// started last does not get any.
struct Isolation<'a> {
    granted: Vec<&'a Record>,
    refusals: BTreeMap<String, String>,
}

impl<'a> Isolation<'a> {
    fn new(records: &'a [Record], topology: &Topology) -> Self {
        let mut isolation = Self { granted: Vec::new(), refusals: BTreeMap::new() };
        for record in records.iter().filter(|record| !record.isolated.is_empty()) {
            isolation.granted.push(record);
            if let Some(unit) = isolation.without_cpus(topology) {
                isolation.granted.pop();
                let problem = format!(
                    "isolate: CPUs {} cannot be isolated, because {unit} would not have a CPU",
                    record.isolated
                );
                isolation.refusals.insert(record.name.clone(), problem);
            }
        }
        isolation
    }

    /// A unit that would have no CPU, or only CPUs that are offline.
    fn without_cpus(&self, topology: &Topology) -> Option<String> {
        let online = if topology.online.is_empty() { &topology.possible } else { &topology.online };
        let is_without = |cpus: &CpuSet| cpus.intersection(online).is_empty();
        // Even if no unit is narrowed, such as in a container, the kernel needs a CPU.
        let rest = topology.possible.difference(&self.cpus(None));
        if is_without(&rest) {
            return Some("the host".to_owned());
        }
        let is_narrowed = |unit: &str| !self.cpus(Some(unit)).is_empty();
        let mut units = self.allowed_cpus(topology).into_iter();
        units.find(|(unit, cpus)| is_narrowed(unit) && is_without(cpus)).map(|(unit, _)| unit)
    }

    /// The CPUs that are isolated from the unit: those of all domains, except those of the domain that runs in it.
    fn cpus(&self, unit: Option<&str>) -> CpuSet {
        let (own, others): (Vec<&Record>, Vec<&Record>) =
            self.granted.iter().partition(|record| unit.is_some() && record.scope.as_deref() == unit);
        let union = |records: Vec<&Record>| {
            records.into_iter().fold(CpuSet::default(), |all, record| all.union(&record.isolated))
        };
        union(others).difference(&union(own))
    }

    fn allowed_cpus(&self, topology: &Topology) -> BTreeMap<String, CpuSet> {
        let allowed = |(unit, before): (&String, &CpuSet)| {
            let isolated = self.cpus(Some(unit));
            let cpus = match (isolated.is_empty(), before.is_empty()) {
                (true, _) => before.clone(),
                (false, true) => topology.possible.difference(&isolated),
                (false, false) => before.difference(&isolated),
            };
            (unit.clone(), cpus)
        };
        topology.allowed_cpus.iter().map(allowed).collect()
    }

    fn workqueue(&self, topology: &Topology) -> CpuSet {
        let narrowed = topology.workqueue.difference(&self.cpus(None));
        if narrowed.is_empty() { topology.workqueue.clone() } else { narrowed }
    }
}

/// The units that should be active.
fn units(records: &[Record]) -> BTreeSet<String> {
    let changes_units = |record: &Record| !record.own_cpus().is_empty() || record.weight.is_some();
    let drop_ins = records.iter().any(changes_units).then(|| DROP_INS.to_owned());
    let units = records.iter().flat_map(units_of).filter(|unit| unit.len() <= MAX_UNIT_NAME);
    units.chain(drop_ins).collect()
}

/// The units that should be active for a record.
fn units_of(record: &Record) -> BTreeSet<String> {
    let name = systemd_escape(&record.name);
    let mut units = BTreeSet::from([format!("wakevirt-prepare@{name}.target")]);
    if record.phase == Phase::Started {
        units.insert(format!("wakevirt-domain@{name}.target"));
        if record.monitor {
            units.insert(format!("wakevirt-monitor@{name}.service"));
        }
    }
    units
}

#[cfg(test)]
mod tests;
