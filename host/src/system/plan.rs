//! The difference between two states of the host, as steps.

use core::fmt;

use wakevirt_service::logs::plain;

use super::{MACHINE_SLICE, Part, mask, sysfs};
use crate::model::{CpuSet, DROP_INS, HostState, PageSize, Pool};

/// A change to the host. Its text is the equivalent shell command, run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Compacts free memory, so that it contains more huge pages.
    Compact,
    /// Changes how many huge pages the kernel can provide on demand, in addition to its pools.
    Overcommit {
        /// The size of a page.
        size: PageSize,
        /// The number of pages before.
        from: u64,
        /// The number of pages afterwards.
        to: u64,
    },
    /// Changes the size of a pool of huge pages.
    Pool {
        /// The pool.
        pool: Pool,
        /// The number of pages before.
        from: u64,
        /// The number of pages afterwards.
        to: u64,
    },
    /// Limits a unit to CPUs.
    Cpus {
        /// The unit.
        unit: String,
        /// The CPUs.
        cpus: CpuSet,
    },
    /// Changes the weight of `machine.slice`. `None` is the default weight.
    Weight {
        /// The weight, from 1 to 10000.
        weight: Option<u64>,
    },
    /// Limits the kernel's unbound work to CPUs.
    Workqueue {
        /// The CPUs.
        cpus: CpuSet,
    },
    /// Starts a unit.
    Start {
        /// The unit.
        unit: String,
    },
    /// Stops a unit.
    Stop {
        /// The unit.
        unit: String,
    },
}

impl Step {
    /// What the step belongs to.
    #[must_use]
    pub const fn part(&self) -> Part {
        match self {
            Self::Compact => Part::Compact,
            Self::Overcommit { .. } | Self::Pool { .. } => Part::Hugepages,
            Self::Cpus { .. } | Self::Workqueue { .. } => Part::Isolate,
            Self::Weight { .. } => Part::Weight,
            Self::Start { .. } | Self::Stop { .. } => Part::Units,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compact => write!(f, "echo 1 | tee /{}/node*/compact", sysfs::NODES),
            Self::Overcommit { size, to, .. } => write!(f, "echo {to} > /{}", sysfs::overcommit_file(*size)),
            Self::Pool { pool, to, .. } => write!(f, "echo {to} > /{}", sysfs::pool_file(*pool)),
            Self::Cpus { unit, cpus } => {
                write!(f, "systemctl set-property --runtime {} AllowedCPUs={cpus}", argument(unit))
            }
            Self::Weight { weight } => {
                let weight = weight.map(|weight| weight.to_string()).unwrap_or_default();
                write!(f, "systemctl set-property --runtime {MACHINE_SLICE} CPUWeight={weight}")
            }
            Self::Workqueue { cpus } => write!(f, "echo {} > /{}", mask::print(cpus), sysfs::WORKQUEUE),
            Self::Start { unit } => write!(f, "systemctl start {}", argument(unit)),
            Self::Stop { unit } => write!(f, "systemctl stop {}", argument(unit)),
        }
    }
}

/// A unit's name as one word in a shell. Names of units contain neither quotes nor control characters.
fn argument(unit: &str) -> String {
    let unit = plain(unit, 256).to_string();
    if unit.contains('\\') { format!("'{unit}'") } else { unit }
}

/// Returns the steps from one state to another. Values that `desired` does not contain remain unchanged.
///
/// The units of `wakevirt-prepare@` start before the other steps, because they can free memory, and stop after them. So
/// does [`DROP_INS`], because it compares the drop-ins before and after.
#[must_use]
pub fn plan(current: &HostState, desired: &HostState) -> Vec<Step> {
    let (start_early, start_late): (Vec<_>, Vec<_>) =
        desired.units.difference(&current.units).cloned().partition(|unit| is_early(unit));
    let (stop_late, stop_early): (Vec<_>, Vec<_>) =
        current.units.difference(&desired.units).cloned().partition(|unit| is_early(unit));
    let start = |unit| Step::Start { unit };
    let stop = |unit| Step::Stop { unit };
    let mut steps: Vec<_> =
        stop_early.into_iter().map(stop).chain(start_early.into_iter().map(start)).collect();
    for (size, to) in &desired.overcommit {
        let from = current.overcommit.get(size).copied().unwrap_or_default();
        if from != *to {
            steps.push(Step::Overcommit { size: *size, from, to: *to });
        }
    }
    for (pool, to) in &desired.pools {
        let from = current.pools.get(pool).copied().unwrap_or_default();
        if from != *to {
            steps.push(Step::Pool { pool: *pool, from, to: *to });
        }
    }
    for (unit, cpus) in &desired.allowed_cpus {
        if current.allowed_cpus.get(unit) != Some(cpus) {
            steps.push(Step::Cpus { unit: unit.clone(), cpus: cpus.clone() });
        }
    }
    if current.machine_weight != desired.machine_weight {
        steps.push(Step::Weight { weight: desired.machine_weight });
    }
    if current.workqueue != desired.workqueue {
        steps.push(Step::Workqueue { cpus: desired.workqueue.clone() });
    }
    steps.extend(start_late.into_iter().map(start).chain(stop_late.into_iter().map(stop)));
    steps
}

/// Whether the unit is active before and after the other changes.
#[must_use]
pub fn is_early(unit: &str) -> bool {
    unit.starts_with("wakevirt-prepare@") || unit == DROP_INS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plans_the_difference() {
        let size = PageSize(2048);
        let pool = Pool { node: 1, size: PageSize(1024 * 1024) };
        let before = HostState {
            overcommit: [(size, 0)].into(),
            pools: [(pool, 0)].into(),
            allowed_cpus: [("system.slice".to_owned(), "0-7".parse().unwrap())].into(),
            machine_weight: None,
            workqueue: "0-7".parse().unwrap(),
            units: [].into(),
        };
        let during = HostState {
            overcommit: [(size, 512)].into(),
            pools: [(pool, 4)].into(),
            allowed_cpus: [
                ("system.slice".to_owned(), "0-1".parse().unwrap()),
                (r"machine-qemu\x2d2\x2db.scope".to_owned(), "0-1".parse().unwrap()),
            ]
            .into(),
            machine_weight: Some(900),
            workqueue: "0-1".parse().unwrap(),
            units: ["wakevirt-domain@a.target".to_owned(), "wakevirt-prepare@a.target".to_owned()].into(),
        };
        assert_eq!(plan(&before, &before), []);
        assert_eq!(
            text(&plan(&before, &during)),
            [
                "systemctl start wakevirt-prepare@a.target",
                "echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
                "echo 4 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
                r"systemctl set-property --runtime 'machine-qemu\x2d2\x2db.scope' AllowedCPUs=0-1",
                "systemctl set-property --runtime system.slice AllowedCPUs=0-1",
                "systemctl set-property --runtime machine.slice CPUWeight=900",
                "echo 00000003 > /sys/devices/virtual/workqueue/cpumask",
                "systemctl start wakevirt-domain@a.target",
            ]
        );
        assert_eq!(
            text(&plan(&during, &before)),
            [
                "systemctl stop wakevirt-domain@a.target",
                "echo 0 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
                "echo 0 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
                "systemctl set-property --runtime system.slice AllowedCPUs=0-7",
                "systemctl set-property --runtime machine.slice CPUWeight=",
                "echo 000000ff > /sys/devices/virtual/workqueue/cpumask",
                "systemctl stop wakevirt-prepare@a.target",
            ]
        );
    }

    #[test]
    fn compaction_is_a_command_too() {
        assert_eq!(Step::Compact.to_string(), "echo 1 | tee /sys/devices/system/node/node*/compact");
        assert_eq!(Step::Compact.part(), Part::Compact);
    }
}
