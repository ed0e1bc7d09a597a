//! The host: what it has, and the state that it should be in.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CpuSet;

/// A size of huge pages, in KiB, as in `/sys/kernel/mm/hugepages/hugepages-2048kB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageSize(pub u64);

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kib if kib % (1024 * 1024) == 0 => write!(f, "{} GiB", kib / (1024 * 1024)),
            kib if kib % 1024 == 0 => write!(f, "{} MiB", kib / 1024),
            kib => write!(f, "{kib} KiB"),
        }
    }
}

/// The smallest size for which `nr_overcommit_hugepages` has no effect. Pages of this size and larger ones come from a
/// pool. On the architectures that Debian supports, the kernel rejects the file for pages larger than a block of its
/// allocator (`hstate_is_gigantic` in `mm/hugetlb.c`).
pub const GIGANTIC: PageSize = PageSize(1024 * 1024);

/// The number of a NUMA node.
pub type NodeId = u32;

/// A pool of huge pages: `/sys/devices/system/node/node0/hugepages/hugepages-1048576kB`. In JSON, it is a string such as
/// `node0/1048576kB`, so that it can be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pool {
    /// The NUMA node.
    pub node: NodeId,
    /// The size of its pages.
    pub size: PageSize,
}

impl From<Pool> for String {
    fn from(pool: Pool) -> Self {
        format!("node{}/{}kB", pool.node, pool.size.0)
    }
}

impl TryFrom<String> for Pool {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = || {
            let (node, size) = text.strip_prefix("node")?.strip_suffix("kB")?.split_once('/')?;
            Some(Self { node: node.parse().ok()?, size: PageSize(size.parse().ok()?) })
        };
        parts().ok_or_else(|| format!("{text:?} is not a pool such as \"node0/1048576kB\""))
    }
}

/// The unit that removes the runtime drop-ins that systemd writes for properties of slices and scopes. It is active while
/// these properties differ from those before the first domain.
pub const DROP_INS: &str = "wakevirt-drop-ins.service";

/// What the host has, and the values that it had before the first domain was prepared. The service stores it with the
/// records, so that a restarted service restores the same values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The CPUs that can ever exist (`/sys/devices/system/cpu/possible`). Masks are computed from these and not from the
    /// online CPUs, so that a CPU that comes online later needs no change.
    pub possible: CpuSet,
    /// The CPUs that are online (`/sys/devices/system/cpu/online`). The service reads them before each change.
    pub online: CpuSet,
    /// The memory of each NUMA node in KiB (`MemTotal` in `/sys/devices/system/node/node0/meminfo`).
    pub memory: BTreeMap<NodeId, u64>,
    /// `nr_overcommit_hugepages` of each page size.
    pub overcommit: BTreeMap<PageSize, u64>,
    /// `nr_hugepages` of each pool.
    pub pools: BTreeMap<Pool, u64>,
    /// The default size of huge pages, which the kernel uses if a domain does not specify a size.
    pub default_page: Option<PageSize>,
    /// `AllowedCPUs` of each slice and scope that is narrowed, by unit name: `system.slice`, `user.slice`, `init.scope`,
    /// and the scopes in `machine.slice`, which the service adds and removes as they come and go. An empty set means that
    /// the unit had no limit.
    pub allowed_cpus: BTreeMap<String, CpuSet>,
    /// `CPUWeight` of `machine.slice`. `None` means that it had the default.
    pub machine_weight: Option<u64>,
    /// The mask of unbound kernel work (`/sys/devices/virtual/workqueue/cpumask`).
    pub workqueue: CpuSet,
    /// Whether the host runs another init system than systemd. It then has no slices and no units.
    #[serde(default)]
    pub without_systemd: bool,
}

/// The state that the host should be in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// `nr_overcommit_hugepages` of each page size.
    pub overcommit: BTreeMap<PageSize, u64>,
    /// `nr_hugepages` of each pool.
    pub pools: BTreeMap<Pool, u64>,
    /// `AllowedCPUs` of slices and scopes, by unit name. An empty set means no limit.
    pub allowed_cpus: BTreeMap<String, CpuSet>,
    /// `CPUWeight` of `machine.slice`.
    pub machine_weight: Option<u64>,
    /// The mask of unbound kernel work.
    pub workqueue: CpuSet,
    /// The systemd units that should be active, such as `wakevirt-prepare@win11.target`.
    pub units: std::collections::BTreeSet<String>,
}
