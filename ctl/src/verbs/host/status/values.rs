//! The values of the host that wakevirt-host changes.

use std::collections::BTreeMap;

use serde::Serialize;
use wakevirt_host::model::{CpuSet, HostState, Topology};

/// A value of the host: a sysfs file or a property of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostValue {
    /// What it is, such as `AllowedCPUs of system.slice`.
    pub name: String,
    /// Before the first active domain.
    pub before: String,
    /// What the active domains need.
    pub wanted: String,
    /// What it is now.
    pub now: String,
}

impl HostValue {
    /// Whether it differs from the value before the first active domain.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.now != self.before || self.wanted != self.before
    }

    /// Whether it differs from what the active domains need.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        self.now != self.wanted
    }
}

/// Returns all values.
#[must_use]
pub fn values(before: &Topology, wanted: &HostState, now: &HostState) -> Vec<HostValue> {
    let mut values = Vec::new();
    rows(&before.overcommit, &wanted.overcommit, &now.overcommit, &mut values, |size| {
        format!("nr_overcommit_hugepages of {size}")
    });
    rows(&before.pools, &wanted.pools, &now.pools, &mut values, |pool| {
        format!("nr_hugepages of {} on node {}", pool.size, pool.node)
    });
    rows(&before.allowed_cpus, &wanted.allowed_cpus, &now.allowed_cpus, &mut values, |unit| {
        format!("AllowedCPUs of {unit}")
    });
    let weight = |weight: Option<u64>| weight.map_or("default".to_owned(), |weight| weight.to_string());
    values.push(HostValue {
        name: "CPUWeight of machine.slice".to_owned(),
        before: weight(before.machine_weight),
        wanted: weight(wanted.machine_weight),
        now: weight(now.machine_weight),
    });
    let cpus = CpuSet::to_string;
    values.push(HostValue {
        name: "CPUs of unbound kernel work".to_owned(),
        before: cpus(&before.workqueue),
        wanted: cpus(&wanted.workqueue),
        now: cpus(&now.workqueue),
    });
    values
}

/// Adds a value for each key.
fn rows<K: Ord, V: ToString>(
    before: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    values: &mut Vec<HostValue>,
    name: impl Fn(&K) -> String,
) {
    for (key, value) in before {
        let before = value.to_string();
        // A scope is absent after its domain has stopped.
        let text = |map: &BTreeMap<K, V>| map.get(key).map_or_else(|| before.clone(), V::to_string);
        values.push(HostValue { name: name(key), wanted: text(wanted), now: text(now), before });
    }
}
