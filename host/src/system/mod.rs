//! The host that is prepared: reads its state from sysfs and, if it runs systemd, from systemd; compares it with the
//! desired state, and changes it.

mod mask;
mod plan;
mod sysfs;
mod systemd;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use crate::model::{CpuSet, HostState, Topology};

pub use plan::{Step, is_early, plan};
pub use sysfs::{PagesError, Sysfs};
pub use systemd::{Systemd, SystemdError};

/// The slices and the scope that contain everything except domains. Their CPUs are limited if a domain has CPUs of its
/// own.
pub const HOST_UNITS: [&str; 3] = ["system.slice", "user.slice", "init.scope"];
/// The slice of all domains.
pub const MACHINE_SLICE: &str = "machine.slice";

/// What a step belongs to. If it fails, this part of a domain's preparation is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Huge pages.
    Hugepages,
    /// Compacting memory.
    Compact,
    /// CPUs of a domain's own.
    Isolate,
    /// The weight of `machine.slice`.
    Weight,
    /// Units of systemd, such as the administrator's own.
    Units,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hugepages => "hugepages",
            Self::Compact => "compact",
            Self::Isolate => "isolate",
            Self::Weight => "weight",
            Self::Units => "units",
        })
    }
}

/// Why the host's state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// A file in sysfs or procfs.
    #[error(transparent)]
    File(#[from] io::Error),
    /// Huge pages.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// A call to systemd failed, or had no effect.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// The host: its sysfs and its systemd.
#[derive(Debug)]
pub struct System {
    sysfs: Sysfs,
    systemd: Systemd,
}

impl System {
    /// Uses this sysfs and this systemd.
    #[must_use]
    pub const fn new(sysfs: Sysfs, systemd: Systemd) -> Self {
        Self { sysfs, systemd }
    }

    /// systemd.
    #[must_use]
    pub const fn systemd(&self) -> &Systemd {
        &self.systemd
    }

    /// Reads what the host has, and the values that it has now.
    ///
    /// # Errors
    /// If a file cannot be read or has an unknown format, or systemd does not answer.
    pub async fn topology(&self) -> Result<Topology, SystemError> {
        let mut topology = self.blocking(|sysfs| sysfs.topology()).await?;
        if topology.without_systemd {
            return Ok(topology);
        }
        let units = HOST_UNITS.map(str::to_owned);
        topology.allowed_cpus = self.allowed_cpus(units.iter(), &topology.possible).await?;
        topology.machine_weight = self.systemd.weight(MACHINE_SLICE).await?;
        Ok(topology)
    }

    /// Reads the host's current state: the values that `topology` has as well, and wakevirt's active units.
    ///
    /// # Errors
    /// Like [`Self::topology`].
    pub async fn current(&self, topology: &Topology) -> Result<HostState, SystemError> {
        let now = self.blocking(|sysfs| sysfs.topology()).await?;
        if topology.without_systemd {
            let Topology { overcommit, pools, workqueue, .. } = now;
            return Ok(HostState { overcommit, pools, workqueue, ..HostState::default() });
        }
        Ok(HostState {
            overcommit: now.overcommit,
            pools: now.pools,
            allowed_cpus: self.allowed_cpus(topology.allowed_cpus.keys(), &now.possible).await?,
            machine_weight: self.systemd.weight(MACHINE_SLICE).await?,
            workqueue: now.workqueue,
            units: self.systemd.active_units().await?,
        })
    }

    /// `AllowedCPUs` of units: `possible` if a unit has no limit.
    async fn allowed_cpus(
        &self,
        units: impl Iterator<Item = &String>,
        possible: &CpuSet,
    ) -> Result<BTreeMap<String, CpuSet>, SystemError> {
        let mut all = BTreeMap::new();
        for unit in units {
            let cpus = self.systemd.allowed_cpus(unit).await?;
            all.insert(unit.clone(), if cpus.is_empty() { possible.clone() } else { cpus });
        }
        Ok(all)
    }

    /// Updates what can change while domains are active: the online CPUs, and the scopes of domains. Removes the scopes
    /// that no longer exist. If `add` is true, adds new scopes with their current limits.
    ///
    /// # Errors
    /// Like [`Self::topology`].
    pub async fn update(&self, topology: &mut Topology, add: bool) -> Result<(), SystemError> {
        topology.online = self.blocking(Sysfs::online).await?;
        if topology.without_systemd {
            return Ok(());
        }
        let scopes = self.systemd.domain_scopes().await?;
        topology.allowed_cpus.retain(|unit, _| HOST_UNITS.contains(&unit.as_str()) || scopes.contains(unit));
        let missing: BTreeSet<_> =
            scopes.into_iter().filter(|scope| add && !topology.allowed_cpus.contains_key(scope)).collect();
        let limits = self.allowed_cpus(missing.iter(), &topology.possible).await?;
        topology.allowed_cpus.extend(limits);
        Ok(())
    }

    /// Takes one step, and checks that it has an effect.
    ///
    /// A start of a unit is only requested: see [`Systemd::start`].
    ///
    /// # Errors
    /// If the step fails. Its effect is then undone, as far as the step has one.
    pub async fn apply(&self, step: &Step) -> Result<(), SystemError> {
        match step {
            Step::Compact => Ok(self.blocking(Sysfs::compact_all).await?),
            Step::Overcommit { size, from, to } => {
                let (size, from, to) = (*size, *from, *to);
                Ok(self.blocking_pages(move |sysfs| sysfs.set_overcommit(size, from, to)).await?)
            }
            Step::Pool { pool, from, to } => {
                let (pool, from, to) = (*pool, *from, *to);
                Ok(self.blocking_pages(move |sysfs| sysfs.set_pool(pool, from, to)).await?)
            }
            Step::Cpus { unit, cpus } => Ok(self.systemd.set_allowed_cpus(unit, cpus).await?),
            Step::Weight { weight } => Ok(self.systemd.set_weight(MACHINE_SLICE, *weight).await?),
            Step::Workqueue { cpus } => {
                let cpus = cpus.clone();
                Ok(self.blocking(move |sysfs| sysfs.set_workqueue(&cpus)).await?)
            }
            Step::Start { unit } => Ok(self.systemd.start(unit).await.map(drop)?),
            Step::Stop { unit } => Ok(self.systemd.stop(unit).await?),
        }
    }

    /// Runs a function that can block: the kernel can take seconds to provide huge pages.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Sysfs) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let sysfs = self.sysfs.clone();
        tokio::task::spawn_blocking(move || run(&sysfs)).await.map_err(io::Error::other)?
    }

    async fn blocking_pages(
        &self,
        run: impl FnOnce(&Sysfs) -> Result<(), PagesError> + Send + 'static,
    ) -> Result<(), PagesError> {
        let sysfs = self.sysfs.clone();
        tokio::task::spawn_blocking(move || run(&sysfs)).await.map_err(io::Error::other)?
    }
}
