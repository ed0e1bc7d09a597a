//! Elements that a domain's definition can contain: <https://libvirt.org/formatdomain.html#cpu-tuning>.

use serde::Serialize;
use wakevirt_host::config::{Preparation, Settings};
use wakevirt_host::definition::Definition;
use wakevirt_host::model::CpuSet;

/// An element for `<cputune>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// The element.
    pub element: String,
    /// What it is for.
    pub purpose: &'static str,
}

/// Returns the elements that the definition lacks, for these settings.
#[must_use]
pub fn proposals(
    definition: &Definition,
    settings: &Settings,
    isolated: &CpuSet,
    possible: &CpuSet,
) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    let mut propose = |element, purpose| proposals.push(Proposal { element, purpose });
    if settings.prepare.contains(&Preparation::Isolate) {
        let pinned = if isolated.is_empty() { &last(possible, definition.vcpus) } else { isolated };
        if isolated.is_empty() {
            for (vcpu, cpu) in (0..definition.vcpus).zip(pinned.iter()) {
                propose(format!("<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>"), "a CPU of its own for this vCPU");
            }
        }
        let others = possible.difference(pinned);
        let is_pinned = definition.emulator.as_ref().is_some_and(|cpus| cpus.intersection(pinned).is_empty());
        if !is_pinned && !others.is_empty() && !pinned.is_empty() {
            propose(
                format!("<emulatorpin cpuset='{others}'/>"),
                "keeps the threads of QEMU itself away from the isolated CPUs",
            );
        }
        if definition.schedulers.is_empty() && !isolated.is_empty() {
            let vcpus: CpuSet = (0..definition.vcpus).collect();
            propose(
                format!("<vcpusched vcpus='{vcpus}' scheduler='fifo' priority='1'/>"),
                "real time for the vCPUs; only sensible if nothing else needs their CPUs",
            );
        }
    }
    if let Some(weight) = settings.weight.filter(|weight| definition.shares != Some(*weight)) {
        propose(
            format!("<shares>{weight}</shares>"),
            "the same weight among the domains; weight in host.toml is that of all domains against the host",
        );
    }
    proposals
}

/// The last CPUs, at most all but one. Empty if there are not enough.
fn last(possible: &CpuSet, count: u32) -> CpuSet {
    let others = possible.len().saturating_sub(count);
    if others == 0 {
        return CpuSet::default();
    }
    (0..).zip(possible.iter()).filter(|(index, _)| *index >= others).map(|(_, cpu)| cpu).collect()
}
