//! What a domain needs, by its definition and its settings.

use wakevirt_service::unit_name::{MAX_UNIT_NAME, systemd_escape};

use crate::config::{Preparation, Settings};
use crate::definition::{Backing, Definition, DefinitionError, PageChoice};
use crate::model::{CpuSet, PageSize, Topology};

/// The largest size of ordinary pages, in KiB (arm64). A definition can name the size of ordinary pages as well.
const MAX_ORDINARY: u64 = 64;
/// The longest name that is added to an escaped name: `wakevirt-monitor@.service`.
const UNIT: usize = "wakevirt-monitor@.service".len();

/// Huge pages that a domain needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagesNeed {
    /// The size of a page.
    pub size: PageSize,
    /// The number of pages.
    pub count: u64,
    /// The NUMA nodes that can provide them. `None` means any node.
    pub nodes: Option<CpuSet>,
}

/// What a domain needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Huge pages.
    pub pages: Vec<PagesNeed>,
    /// Whether memory is compacted before it starts.
    pub compact: bool,
    /// The CPUs that only this domain is to use.
    pub isolated: CpuSet,
    /// Its weight against the host.
    pub weight: Option<u64>,
    /// Whether the input of a monitor is switched for it.
    pub monitor: bool,
    /// Whether it must not start if the host cannot be prepared.
    pub require: bool,
    /// Why it cannot get what its settings name.
    pub failures: Vec<String>,
}

impl Needs {
    /// The needs of the domain with this name, definition and settings.
    #[must_use]
    pub fn new(name: &str, definition: &Definition, settings: &Settings, topology: &Topology) -> Self {
        let mut needs = Self::of_settings(name, settings, topology);
        if settings.prepare.contains(&Preparation::Hugepages) {
            match pages(definition, topology) {
                Ok(pages) => needs.pages = pages,
                Err(failure) => needs.failures.push(failure),
            }
        }
        if settings.prepare.contains(&Preparation::Isolate) && !topology.without_systemd {
            needs.isolated = isolated(definition, topology);
            if needs.isolated.is_empty() {
                needs.failures.push(
                    "isolate: no vCPU is pinned to some of the host's CPUs; add <vcpupin> to its definition"
                        .to_owned(),
                );
            }
        }
        needs
    }

    /// The needs of a domain whose definition cannot be used.
    #[must_use]
    pub fn without_definition(
        name: &str,
        settings: &Settings,
        error: &DefinitionError,
        topology: &Topology,
    ) -> Self {
        let mut needs = Self::of_settings(name, settings, topology);
        needs.failures.push(error.to_string());
        needs
    }

    fn of_settings(name: &str, settings: &Settings, topology: &Topology) -> Self {
        let needs = Self {
            compact: settings.prepare.contains(&Preparation::Compact),
            require: settings.require,
            ..Self::default()
        };
        if topology.without_systemd {
            let missing = settings.systemd_keys().into_iter();
            let failures = missing.map(|key| format!("{key}: needs systemd, which this host does not run"));
            return Self { failures: failures.collect(), ..needs };
        }
        let length = systemd_escape(name).len() + UNIT;
        let failures = if length > MAX_UNIT_NAME {
            vec![format!(
                "the name is too long for units: {length} bytes with its escapes; the maximum is {MAX_UNIT_NAME}"
            )]
        } else {
            Vec::new()
        };
        Self { weight: settings.weight, monitor: settings.monitor.is_some(), failures, ..needs }
    }
}

/// The huge pages of a definition.
fn pages(definition: &Definition, topology: &Topology) -> Result<Vec<PagesNeed>, String> {
    if definition.huge.is_empty() {
        return Err("hugepages: the definition has no <hugepages>; add it to <memoryBacking>".to_owned());
    }
    let mut pages = Vec::new();
    for Backing { memory, page, nodes } in &definition.huge {
        let size = match page {
            PageChoice::Size(size) => *size,
            PageChoice::Default => {
                topology.default_page.ok_or("hugepages: the kernel does not support them")?
            }
        };
        if !topology.overcommit.contains_key(&size) {
            if size.0 <= MAX_ORDINARY {
                continue;
            }
            return Err(format!("hugepages: the host does not support pages of {size}"));
        }
        pages.push(PagesNeed { size, count: memory.div_ceil(size.0.max(1)), nodes: nodes.clone() });
    }
    Ok(pages)
}

/// The CPUs of all vCPUs that are pinned to some of the host's CPUs.
///
/// The threads of the emulator and of its devices do not count: they are usually pinned to the CPUs of the host.
#[must_use]
pub fn isolated(definition: &Definition, topology: &Topology) -> CpuSet {
    let is_all = |cpus: &CpuSet| {
        cpus.includes(&topology.possible) || (!topology.online.is_empty() && cpus.includes(&topology.online))
    };
    let pins = (0..definition.vcpus).filter_map(|vcpu| definition.pins.of(vcpu)).filter(|cpus| !is_all(cpus));
    let isolated = pins.fold(CpuSet::default(), |all, cpus| all.union(cpus));
    isolated.intersection(&topology.possible)
}
