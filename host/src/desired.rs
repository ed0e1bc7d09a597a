//! The pure function from the records of active domains to the state that the host should be in.

use crate::model::{HostState, Record, Topology};

/// Returns the state that the host should be in while these domains are active. Without records, it is the state before
/// the first domain.
#[must_use]
pub fn desired(records: &[Record], topology: &Topology) -> HostState {
    let _ = records;
    HostState {
        overcommit: topology.overcommit.clone(),
        pools: topology.pools.clone(),
        allowed_cpus: topology.allowed_cpus.clone(),
        machine_weight: topology.machine_weight,
        workqueue: topology.workqueue.clone(),
        units: std::collections::BTreeSet::new(),
    }
}
