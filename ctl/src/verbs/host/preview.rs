//! What wakevirt-host would do for a domain, computed with the functions of the service.

use core::time::Duration;
use std::path::Path;

use wakevirt_host::config::Config;
use wakevirt_host::definition::Definition;
use wakevirt_host::desired::{desired, refusals};
use wakevirt_host::model::{HostState, Record, Topology};
use wakevirt_host::records::{Change, Event, Needs, apply};
use wakevirt_host::state;
use wakevirt_host::system::{Step, Sysfs, System, Systemd, plan};

use super::HostError;
use super::guests::Guest;
use crate::client::Client;

/// The user of the service.
pub const USER: &str = "wakevirt-host";

/// The host as wakevirt-host sees it: its values before the first active domain, and the records of the active domains.
#[derive(Debug, Clone, Default)]
pub struct Preview {
    /// What the host has, and its values before the first active domain.
    pub topology: Topology,
    /// The active domains.
    pub records: Vec<Record>,
}

/// The steps for one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// Before it starts.
    pub prepare: Vec<Step>,
    /// When it runs.
    pub run: Vec<Step>,
    /// After it has stopped.
    pub stop: Vec<Step>,
    /// What it does not get, and why.
    pub failures: Vec<String>,
}

/// Reads the configuration.
///
/// # Errors
/// If it is invalid.
pub fn config() -> Result<Config, HostError> {
    Config::load(None, USER).map_err(|error| HostError::Config(Box::new(error)))
}

impl Preview {
    /// Reads the state file of wakevirt-host and the values of the host.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn read(client: &Client) -> Result<Self, HostError> {
        let state = state::read(Path::new(state::FILE))?.unwrap_or_default();
        let system = System::new(Sysfs::default(), Systemd::new(client.address().clone()));
        let topology = match state.before {
            Some(before) => before,
            None => {
                let mut topology = system.topology().await?;
                system.update(&mut topology, true).await?;
                topology
            }
        };
        Ok(Self { topology, records: state.records })
    }

    /// The records of the other active domains, and of this domain after these changes.
    #[must_use]
    pub fn records_with(&self, guest: &Guest, changes: &[Change]) -> Vec<Record> {
        let mut records = self.records.clone();
        records.retain(|record| record.name != guest.name);
        for (seconds, change) in (1..).zip(changes) {
            let time = Duration::from_secs(seconds);
            let event = Event { time, name: guest.name.clone(), uuid: guest.uuid, change: change.clone() };
            apply(&mut records, &event, &self.topology);
        }
        records
    }

    /// The needs of a domain. `None` if the configuration does not contain it.
    #[must_use]
    pub fn needs(&self, config: &Config, guest: &Guest, xml: &str) -> Option<Needs> {
        let settings = config.settings_for(&guest.name, guest.uuid)?;
        Some(match Definition::read(xml) {
            Ok(definition) => Needs::new(&guest.name, &definition, &settings, &self.topology),
            Err(error) => Needs::without_definition(&guest.name, &settings, &error, &self.topology),
        })
    }

    /// What would be done for a domain with these needs.
    #[must_use]
    pub fn steps(&self, guest: &Guest, needs: &Needs) -> Steps {
        let prepare = Change::Prepare(Some(needs.clone()));
        let before = self.records_with(guest, &[]);
        let prepared = self.records_with(guest, std::slice::from_ref(&prepare));
        let started = self.records_with(guest, &[prepare, Change::Running(None)]);
        let state = |records: &[Record]| -> HostState { desired(records, &self.topology) };
        let mut steps = Steps {
            prepare: plan(&state(&before), &state(&prepared)),
            run: plan(&state(&prepared), &state(&started)),
            stop: plan(&state(&started), &state(&before)),
            failures: Vec::new(),
        };
        if needs.compact {
            steps.prepare.push(Step::Compact);
        }
        let record = started.iter().find(|record| record.name == guest.name);
        steps.failures.extend(record.iter().flat_map(|record| record.failures.clone()));
        steps.failures.extend(refusals(&started, &self.topology).remove(&guest.name));
        steps
    }
}
