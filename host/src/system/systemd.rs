//! Calls to systemd: org.freedesktop.systemd1(5). polkit permits them: `dbus/host/10-wakevirt-host.rules`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use wakevirt_service::bus::{Address, Backoff};
use wakevirt_service::logs::quoted;
use zbus::wire::Type;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use crate::model::{CpuSet, DROP_INS};

/// How long calls are repeated while the bus or systemd restarts.
const RETRY: Duration = Duration::from_secs(3);
/// How long the kernel and systemd can take until a limit has an effect. systemd changes cgroups after it has answered.
const EFFECT: Duration = Duration::from_secs(5);
/// The names of wakevirt's units.
const UNITS: [&str; 4] =
    ["wakevirt-prepare@*.target", "wakevirt-domain@*.target", "wakevirt-monitor@*.service", DROP_INS];
/// The names of the scopes in which libvirt runs QEMU.
const SCOPES: &str = "machine-qemu*.scope";
/// The value of `CPUWeight` that means the default (`CGROUP_WEIGHT_INVALID` in systemd).
const DEFAULT_WEIGHT: u64 = u64::MAX;
/// The maximum number of units of an answer that are used.
const MAX_UNITS: usize = 4096;

/// The maximum number of units that a target waits for.
const MAX_WANTED: usize = 256;
/// How often the state of a unit that starts is read.
const POLL: Duration = Duration::from_millis(50);

type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The CPUs that a cgroup has: cgroups(7).
const CPUSET: &str = "cpuset.cpus.effective";
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// systemd's name on the bus.
const NAME: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// A call failed.
    #[error("systemd cannot {action}: {source}")]
    Call {
        /// What systemd was asked for.
        action: String,
        /// The cause.
        source: zbus::Error,
    },
    /// A limit has no effect.
    #[error(
        "{property} has no effect on {unit}: {file} contains {}; the {controller} controller of cgroup v2 might be disabled or in use by cgroup v1",
        quoted(found)
    )]
    NoEffect {
        /// The property.
        property: &'static str,
        /// The unit.
        unit: String,
        /// The file that shows the effect.
        file: String,
        /// Its content, or the reason why it cannot be read.
        found: String,
        /// The cgroup controller.
        controller: &'static str,
    },
    /// A unit did not start.
    #[error("{unit} is {state}; see `systemctl status {unit}` and `journalctl --unit={unit}`")]
    Failed {
        /// The unit.
        unit: String,
        /// Its state.
        state: String,
    },
    /// A unit did not start in time.
    #[error("{unit} did not start in time; see `systemctl status {unit}`")]
    Slow {
        /// The unit.
        unit: String,
    },
}

/// systemd. Connects to the bus when it is needed, and again after the connection is lost.
#[derive(Debug)]
pub struct Systemd {
    bus: Address,
    connection: Mutex<Option<Connection>>,
    /// The mount point of cgroup v2.
    cgroups: PathBuf,
}

impl Systemd {
    /// Uses the systemd on this bus.
    #[must_use]
    pub fn new(bus: Address) -> Self {
        Self { bus, connection: Mutex::new(None), cgroups: PathBuf::from("/sys/fs/cgroup") }
    }

    /// Makes a call. Repeats it if the bus or systemd is not available, for a short time: each call can be repeated.
    async fn call<B, R>(&self, target: (&str, &str, &str), body: &B, action: &str) -> Result<R, SystemdError>
    where
        B: Serialize + Type + Sync,
        R: DeserializeOwned + Type,
    {
        let start = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            match self.try_call(target, body).await {
                Err(error) if is_unavailable(&error) && start.elapsed() < RETRY => {
                    *self.connection.lock().await = None;
                    backoff.wait().await;
                }
                result => {
                    return result.map_err(|source| SystemdError::Call { action: action.to_owned(), source });
                }
            }
        }
    }

    async fn try_call<B, R>(&self, (path, interface, method): (&str, &str, &str), body: &B) -> zbus::Result<R>
    where
        B: Serialize + Type + Sync,
        R: DeserializeOwned + Type,
    {
        let bus = self.connect().await?;
        let reply = bus.call_method(Some(NAME), path, Some(interface), method, body).await?;
        reply.body().deserialize()
    }

    /// Calls systemd's main object.
    async fn manage<B, R>(&self, method: &str, body: &B, action: &str) -> Result<R, SystemdError>
    where
        B: Serialize + Type + Sync,
        R: DeserializeOwned + Type,
    {
        self.call((MANAGER_PATH, MANAGER, method), body, action).await
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        Ok(connection.insert(self.bus.connect(None).await?).clone())
    }

    async fn units(&self, states: &[&str], patterns: &[&str]) -> Result<BTreeSet<String>, SystemdError> {
        let units: Vec<ListedUnit> =
            self.manage("ListUnitsByPatterns", &(states, patterns), "list units").await?;
        Ok(units.into_iter().take(MAX_UNITS).map(|unit| unit.0).collect())
    }

    /// wakevirt's units that are active or starting.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub async fn active_units(&self) -> Result<BTreeSet<String>, SystemdError> {
        self.units(&["active", "activating", "reloading"], &UNITS).await
    }

    /// The scopes of all running domains.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub async fn domain_scopes(&self) -> Result<BTreeSet<String>, SystemdError> {
        self.units(&["active"], &[SCOPES]).await
    }

    /// The scope of a domain's QEMU process. `None` if libvirt runs it without a scope.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub async fn scope_of(&self, pid: u32) -> Result<Option<String>, SystemdError> {
        let action = format!("find the unit of process {pid}");
        let path: OwnedObjectPath = self.manage("GetUnitByPID", &(pid,), &action).await?;
        let unit: String = self.get(&path, "Unit", "Id", &action).await?;
        Ok((unit.starts_with("machine-qemu") && unit.ends_with(".scope")).then_some(unit))
    }

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
    async fn get<T: TryFrom<OwnedVariant>>(
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

    /// Requests the start of a unit. [`Self::wait_for`] waits for it.
    ///
    /// # Errors
    /// If systemd does not answer, or the unit does not exist.
    pub async fn start(&self, unit: &str) -> Result<(), SystemdError> {
        let _job: OwnedObjectPath =
            self.manage("StartUnit", &(unit, "replace"), &format!("start {unit}")).await?;
        Ok(())
    }

    /// Waits until the unit has started, and the units that it requires or wants as well.
    ///
    /// # Errors
    /// If one of them fails, or does not start before the deadline.
    pub async fn wait_for(&self, unit: &str, deadline: Instant) -> Result<(), SystemdError> {
        while self.has_job(unit).await? {
            if Instant::now() >= deadline {
                return Err(SystemdError::Slow { unit: unit.to_owned() });
            }
            sleep(POLL).await;
        }
        self.must_be(unit, |state| state == "active").await?;
        for list in ["Requires", "Wants"] {
            let others: Vec<String> = self.property_of(unit, "Unit", list).await?;
            for other in others.iter().take(MAX_WANTED) {
                self.must_be(other, |state| state != "failed").await?;
            }
        }
        Ok(())
    }

    /// Whether systemd is about to start or stop the unit.
    async fn has_job(&self, unit: &str) -> Result<bool, SystemdError> {
        let (job, _): (u32, OwnedObjectPath) = self.property_of(unit, "Unit", "Job").await?;
        Ok(job != 0)
    }

    async fn must_be(&self, unit: &str, is_expected: impl Fn(&str) -> bool) -> Result<(), SystemdError> {
        let state: String = self.property_of(unit, "Unit", "ActiveState").await?;
        if is_expected(&state) { Ok(()) } else { Err(SystemdError::Failed { unit: unit.to_owned(), state }) }
    }

    /// Requests the stop of a unit.
    ///
    /// # Errors
    /// If systemd does not answer.
    pub async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        let _job: OwnedObjectPath =
            self.manage("StopUnit", &(unit, "replace"), &format!("stop {unit}")).await?;
        Ok(())
    }
}

/// Whether the bus or systemd is not available, for example because it restarts.
fn is_unavailable(error: &zbus::Error) -> bool {
    use zbus::fdo::Error::{Disconnected, NameHasNoOwner, NoReply, NoServer, ServiceUnknown, Timeout};
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Handshake(_) => true,
        zbus::Error::FDO(error) => matches!(
            **error,
            Disconnected(_) | NameHasNoOwner(_) | NoReply(_) | NoServer(_) | ServiceUnknown(_) | Timeout(_)
        ),
        _ => false,
    }
}
