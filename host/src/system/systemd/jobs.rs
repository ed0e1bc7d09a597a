//! Units: lists, starts and stops.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zbus::OwnedObjectPath;

use super::{Systemd, SystemdError};
use crate::model::DROP_INS;

/// The names of wakevirt's units.
const UNITS: [&str; 4] =
    ["wakevirt-prepare@*.target", "wakevirt-domain@*.target", "wakevirt-monitor@*.service", DROP_INS];
/// The names of the scopes in which libvirt runs QEMU.
const SCOPES: &str = "machine-qemu*.scope";
/// The maximum number of units of an answer that are used.
const MAX_UNITS: usize = 4096;

/// The maximum number of units that a target waits for.
const MAX_WANTED: usize = 256;
/// How often the state of a unit that starts is read.
const POLL: Duration = Duration::from_millis(50);

type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

impl Systemd {
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
