//! Events of domains, and how they change the records.
//!
//! Events can be lost, repeated or late, and the service can restart between them. An event therefore says what a
//! domain needs from then on, not what changed, and one that is older than the record changes nothing.

mod needs;
mod place;

use core::time::Duration;

use uuid::Uuid;
use wakevirt_protocol::host::Operation;

pub use needs::{Needs, PagesNeed};

use crate::config::Config;
use crate::definition::Definition;
use crate::model::{Phase, Record, Topology};

/// How long a domain can be prepared without a QEMU process. Afterwards, libvirt has given up the start, or its events
/// were lost.
pub const MAX_PREPARED: Duration = Duration::from_secs(300);
/// The maximum number of records. Events of more domains are ignored.
pub const MAX_RECORDS: usize = 4096;

/// An event of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened (CLOCK_BOOTTIME).
    pub time: Duration,
    /// The domain's name.
    pub name: String,
    /// Its UUID, if known.
    pub uuid: Option<Uuid>,
    /// What happened.
    pub change: Change,
}

/// What happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is about to start, with these needs. `None` if the configuration does not contain it.
    Prepare(Option<Needs>),
    /// It runs: libvirt's `started` and `reconnect`. The needs count only if there is no record yet.
    Running(Option<Needs>),
    /// It has stopped.
    Stopped,
    /// libvirt has released everything.
    Release,
    /// The service found no QEMU process for it.
    Gone,
}

impl Event {
    /// The event that libvirt's hook reported with this XML. If the XML cannot be used, the needs contain the failure.
    #[must_use]
    pub fn read(
        operation: Operation,
        time: Duration,
        name: &str,
        xml: &str,
        config: &Config,
        topology: &Topology,
    ) -> Self {
        let mut uuid = None;
        let mut needs = || {
            let definition = Definition::read(xml);
            uuid = definition.as_ref().ok().and_then(|definition| definition.uuid);
            let settings = config.settings_for(name, uuid)?;
            Some(match definition {
                Ok(definition) => Needs::new(name, &definition, &settings, topology),
                Err(error) => Needs::without_definition(name, &settings, &error, topology),
            })
        };
        let change = match operation {
            Operation::Prepare => Change::Prepare(needs()),
            Operation::Started | Operation::Reconnect => Change::Running(needs()),
            Operation::Stopped => Change::Stopped,
            Operation::Release => Change::Release,
        };
        Self { time, name: name.to_owned(), uuid, change }
    }
}

/// Changes the records by an event. Returns whether the event added a record.
pub fn apply(records: &mut Vec<Record>, event: &Event, topology: &Topology) -> bool {
    let position = records.iter().position(|record| record.name == event.name);
    let old = position.and_then(|position| records.get_mut(position));
    if old.as_ref().is_some_and(|record| event.time <= record.changed) {
        return false;
    }
    match (&event.change, old) {
        (Change::Running(_), Some(record)) => record.enter(Phase::Started, event.time),
        (Change::Stopped, Some(record)) => record.enter(Phase::Prepared, event.time),
        (Change::Gone, Some(record)) if is_starting(record, event.time) => {}
        (Change::Prepare(needs), _) => {
            remove(records, &event.name);
            return add(records, needs.as_ref(), Phase::Prepared, event, topology);
        }
        (Change::Running(needs), None) => {
            return add(records, needs.as_ref(), Phase::Started, event, topology);
        }
        (Change::Release | Change::Gone, _) => remove(records, &event.name),
        (Change::Stopped, None) => {}
    }
    false
}

/// Whether the record is that of a domain that may not have a QEMU process yet.
fn is_starting(record: &Record, now: Duration) -> bool {
    record.phase == Phase::Prepared && now.saturating_sub(record.changed) < MAX_PREPARED
}

fn remove(records: &mut Vec<Record>, name: &str) {
    records.retain(|record| record.name != name);
}

fn add(
    records: &mut Vec<Record>,
    needs: Option<&Needs>,
    phase: Phase,
    event: &Event,
    topology: &Topology,
) -> bool {
    let Some(needs) = needs.filter(|_| records.len() < MAX_RECORDS) else { return false };
    let mut failures = needs.failures.clone();
    let pages = place::pages(&needs.pages, records, topology).unwrap_or_else(|failure| {
        failures.push(failure);
        Vec::new()
    });
    records.push(Record {
        uuid: event.uuid,
        pages,
        compact: needs.compact,
        isolated: needs.isolated.clone(),
        weight: needs.weight,
        monitor: needs.monitor,
        require: needs.require,
        failures,
        ..Record::new(&event.name, phase, event.time)
    });
    true
}

impl Record {
    fn enter(&mut self, phase: Phase, time: Duration) {
        self.phase = phase;
        self.changed = time;
    }
}

#[cfg(test)]
mod tests;
