//! Properties of slices, scopes and other units.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::{NAME, Systemd, SystemdError};
use crate::model::CpuSet;

/// How long the kernel and systemd can take until a limit has an effect. systemd changes cgroups after it has answered.
const EFFECT: Duration = Duration::from_secs(5);
/// The value of `CPUWeight` that means the default (`CGROUP_WEIGHT_INVALID` in systemd).
const DEFAULT_WEIGHT: u64 = u64::MAX;
/// The CPUs that a cgroup has: cgroups(7).
const CPUSET: &str = "cpuset.cpus.effective";
const ONLINE: &str = "/sys/devices/system/cpu/online";

impl Systemd {
    /// `AllowedCPUs` of a slice or scope. Empty if it has no limit.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub async fn allowed_cpus(&self, unit: &str) -> Result<CpuSet, SystemdError> {
        let mask: Vec<u8> = self.property(unit, "AllowedCPUs").await?;
        let bits = (0_u32..).zip(mask.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)));
        Ok(bits.filter(|(_, is_set)| *is_set).map(|(cpu, _)| cpu).collect())
    }

    /// `CPUWeight` of a slice or scope. `None` if it has the default.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub async fn weight(&self, unit: &str) -> Result<Option<u64>, SystemdError> {
        let weight: u64 = self.property(unit, "CPUWeight").await?;
        Ok((weight != DEFAULT_WEIGHT).then_some(weight))
    }

    /// A property of a slice or scope.
    async fn property<T: TryFrom<OwnedVariant>>(
        &self,
        unit: &str,
        name: &'static str,
    ) -> Result<T, SystemdError> {
        self.property_of(unit, if unit.ends_with(".scope") { "Scope" } else { "Slice" }, name).await
    }

    /// A property of a unit. `interface` is the last part of its interface's name, such as `Service`.
    ///
    /// # Errors
    /// If systemd does not answer, or the property has another type.
    pub async fn property_of<T: TryFrom<OwnedVariant>>(
        &self,
        unit: &str,
        interface: &str,
        name: &str,
    ) -> Result<T, SystemdError> {
        let action = format!("read {name} of {unit}");
        let path: OwnedObjectPath = self.manage("LoadUnit", &(unit,), &action).await?;
        self.get(&path, interface, name, &action).await
    }

    /// Reads a property of the object of a unit.
    pub(super) async fn get<T: TryFrom<OwnedVariant>>(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
        action: &str,
    ) -> Result<T, SystemdError> {
        let target = (path.as_str(), "org.freedesktop.DBus.Properties", "Get");
        let value: OwnedVariant = self.call(target, &(format!("{NAME}.{interface}"), name), action).await?;
        let unknown = || SystemdError::Call { action: action.to_owned(), source: zbus::Error::IncorrectType };
        T::try_from(value).map_err(|_| unknown())
    }

    async fn set(&self, unit: &str, name: &'static str, value: Variant<'_>) -> Result<(), SystemdError> {
        let properties = [(name, value)];
        self.manage("SetUnitProperties", &(unit, true, &properties[..]), &format!("set {name} of {unit}"))
            .await
    }

    /// Sets `AllowedCPUs` until the next boot, and waits until the processes of the unit are limited to these CPUs.
    ///
    /// # Errors
    /// If systemd does not answer, or the limit has no effect.
    pub async fn set_allowed_cpus(&self, unit: &str, cpus: &CpuSet) -> Result<(), SystemdError> {
        self.set(unit, "AllowedCPUs", Variant::new(cpus.to_mask())).await?;
        let read = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<CpuSet>().ok();
        let is_no_limit = read(Path::new(ONLINE)).is_some_and(|online| cpus.includes(&online));
        let has_effect = |file: &Path| {
            // The CPUs that the unit could have.
            let above = file.parent().and_then(Path::parent).and_then(|parent| read(&parent.join(CPUSET)));
            let expected = above.map_or_else(|| cpus.clone(), |above| above.intersection(cpus));
            read(file).map_or(is_no_limit, |found| expected.is_empty() || found == expected)
        };
        self.wait_for_effect(unit, "AllowedCPUs", CPUSET, "cpuset", has_effect).await
    }

    /// Sets `CPUWeight` until the next boot, and waits until it has an effect. `None` sets the default.
    ///
    /// # Errors
    /// Like [`Self::set_allowed_cpus`].
    pub async fn set_weight(&self, unit: &str, weight: Option<u64>) -> Result<(), SystemdError> {
        self.set(unit, "CPUWeight", Variant::new(weight.unwrap_or(DEFAULT_WEIGHT))).await?;
        let has_effect = |file: &Path| {
            let is_set = |weight: u64| {
                std::fs::read_to_string(file).is_ok_and(|found| found.trim() == weight.to_string())
            };
            weight.is_none_or(is_set)
        };
        self.wait_for_effect(unit, "CPUWeight", "cpu.weight", "cpu", has_effect).await
    }

    /// Waits until a file in the unit's cgroup has the expected content. A unit without processes has no cgroup, and
    /// systemd applies the limit when it gets one.
    async fn wait_for_effect(
        &self,
        unit: &str,
        property: &'static str,
        file: &'static str,
        controller: &'static str,
        has_effect: impl Fn(&Path) -> bool,
    ) -> Result<(), SystemdError> {
        let cgroup: String = self.property(unit, "ControlGroup").await?;
        let directory = self.cgroups.join(cgroup.trim_start_matches('/'));
        if cgroup.is_empty() || !directory.exists() {
            return Ok(());
        }
        let path = directory.join(file);
        let start = Instant::now();
        loop {
            if has_effect(&path) {
                return Ok(());
            }
            if start.elapsed() >= EFFECT {
                let found = std::fs::read_to_string(&path);
                let found = found.unwrap_or_else(|error: io::Error| error.to_string()).trim().to_owned();
                let (unit, file) = (unit.to_owned(), path.display().to_string());
                return Err(SystemdError::NoEffect { property, unit, file, found, controller });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
