//! The records of active domains.

use core::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CpuSet, NodeId, PageSize};

/// How far a domain has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Between libvirt's `prepare` and `started`, or between `stopped` and `release`.
    Prepared,
    /// Between libvirt's `started` and `stopped`.
    Started,
}

/// Huge pages that a domain needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// The size of a page.
    pub size: PageSize,
    /// The number of pages.
    pub count: u64,
    /// The NUMA node that provides them. `None` means any node: the kernel takes pages below 1 GiB from any node.
    pub node: Option<NodeId>,
}

/// What an active domain needs: derived from its XML and the configuration when it starts. There is one record for each
/// active domain that the configuration contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The domain's name, which is unique among the domains of libvirt's QEMU driver.
    pub name: String,
    /// Its UUID, if its XML contained one.
    pub uuid: Option<Uuid>,
    /// How far it has started.
    pub phase: Phase,
    /// The time of its last event (CLOCK_BOOTTIME).
    pub changed: Duration,
    /// The huge pages that it needs, if `prepare` contains `hugepages`.
    pub pages: Vec<Pages>,
    /// The CPUs that only this domain is to use, if `prepare` contains `isolate`.
    pub isolated: CpuSet,
    /// The systemd scope of its QEMU process, such as `machine-qemu\x2d1\x2dwin11.scope`, once it is known: it exists from
    /// shortly before `started` on. The domain's own isolated CPUs remain available to this scope.
    pub scope: Option<String>,
    /// Whether the kernel compacts free memory before the domain starts, if `prepare` contains `compact`.
    pub compact: bool,
    /// Its weight against the host, if `weight` is set: 1 to 10000.
    pub weight: Option<u64>,
    /// Whether the input of a monitor is switched for it, if `monitor` is set.
    pub monitor: bool,
    /// Whether it must not start if the host cannot be prepared: `require`.
    pub require: bool,
    /// Why its CPUs cannot be isolated while the other domains are active.
    pub refusal: Option<String>,
    /// Why the preparation failed; empty if it succeeded.
    pub failures: Vec<String>,
}

impl Record {
    /// A record of a domain that needs nothing.
    #[must_use]
    pub fn new(name: &str, phase: Phase, changed: Duration) -> Self {
        Self {
            name: name.to_owned(),
            uuid: None,
            phase,
            changed,
            pages: Vec::new(),
            isolated: CpuSet::default(),
            scope: None,
            compact: false,
            weight: None,
            monitor: false,
            require: false,
            refusal: None,
            failures: Vec::new(),
        }
    }

    /// The CPUs that only this domain uses now.
    #[must_use]
    pub fn own_cpus(&self) -> CpuSet {
        if self.refusal.is_none() { self.isolated.clone() } else { CpuSet::default() }
    }

    /// What the domain does not get, and why.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.failures.iter().chain(&self.refusal).map(String::as_str)
    }
}
