//! Brings the host into the state that the records require.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use wakevirt_protocol::host::Operation;
use wakevirt_service::logs::{kind, quoted};

use super::{UnitFailure, Worker};
use crate::desired::{desired, update_refusals};
use crate::model::{HostState, Phase, Record, Topology};
use crate::system::{Part, Step, SystemError, is_early, plan};

/// Each attempt after the first one leaves out a part of a domain's preparation that has failed.
const MAX_ATTEMPTS: usize = 5;

/// A step that failed.
struct Failed {
    step: Step,
    error: SystemError,
}

impl Worker {
    /// Brings the host into the desired state. If a step for the domain of the current event fails, leaves out this part
    /// of its preparation.
    pub(super) async fn settle(&mut self, event: Option<(&str, Operation)>, deadline: Instant) {
        let name = event.map(|(name, _)| name);
        let mut compact = event.is_some_and(|(name, operation)| {
            let record = self.state.records.iter().find(|record| record.name == name);
            operation == Operation::Prepare && record.is_some_and(|record| record.compact)
        });
        self.find_scopes().await;
        for _ in 0..MAX_ATTEMPTS {
            let failed = match self.attempt(std::mem::take(&mut compact), deadline).await {
                Ok(failed) => failed,
                Err(error) => {
                    self.state.is_changing = false;
                    self.fail(name, None, &error.to_string());
                    self.is_pending = true;
                    return;
                }
            };
            self.is_pending = !failed.is_empty();
            if !self.is_pending {
                break;
            }
            if !self.leave_out(name, &failed) {
                break;
            }
        }
        self.finish(event);
    }

    /// Compares the host with the desired state, and takes the steps. Returns those that failed.
    async fn attempt(&mut self, compact: bool, deadline: Instant) -> Result<Vec<Failed>, SystemError> {
        let mut before = self.state.before.clone().unwrap_or_default();
        // A scope that is new might belong to a domain that is starting. A domain must keep its own CPUs, so its scope
        // must be known before others are limited.
        let isolated = self.state.records.iter().filter(|record| !record.isolated.is_empty());
        let unknown = |record: &Record| record.phase == Phase::Started && record.scope.is_none();
        let add = isolated.clone().count() > 0 && !isolated.clone().any(unknown) && self.starting.is_empty();
        self.system.update(&mut before, add).await?;
        self.note_refusals(&before);
        let mut wanted = desired(&self.state.records, &before);
        wanted.units.retain(|unit| !self.state.failed_units.contains(unit));
        self.state.before = Some(before.clone());
        self.state.applied = wanted.clone();
        self.state.is_changing = true;
        // Before the first step, so that a restarted service can undo it.
        self.save();
        let current = self.system.current(&before).await?;
        let steps = plan(&current, &wanted);
        let steps = compact.then_some(Step::Compact).into_iter().chain(steps);
        let mut failed: Vec<Failed> = Vec::new();
        for step in steps {
            let is_useless =
                |failed: &Failed| failed.step.part() == step.part() && step.part() != Part::Units;
            if !self.state.records.is_empty() && failed.iter().any(is_useless) {
                continue;
            }
            tracing::debug!("{step}");
            if let Err(error) = self.take(&step, deadline).await {
                failed.push(Failed { step, error });
            }
        }
        Ok(failed)
    }

    /// Takes one step. Waits for units that must be active before the next step, and for others in the background.
    async fn take(&self, step: &Step, deadline: Instant) -> Result<(), SystemError> {
        self.system.apply(step).await?;
        let Step::Start { unit } = step else { return Ok(()) };
        if is_early(unit) {
            return Ok(self.system.systemd().wait_for(unit, deadline).await?);
        }
        let (system, unit, failures) = (Arc::clone(&self.system), unit.clone(), self.unit_failures.clone());
        tokio::spawn(async move {
            if let Err(error) = system.systemd().wait_for(&unit, deadline).await {
                // The worker has exited.
                let _ = failures.send(UnitFailure { unit, error }).await;
            }
        });
        Ok(())
    }

    /// Reports the failed steps, and leaves their parts out of the domain's record. Returns whether this changes the
    /// desired state.
    fn leave_out(&mut self, name: Option<&str>, failed: &[Failed]) -> bool {
        let mut changed = false;
        for Failed { step, error } in failed {
            let part = step.part();
            let message = format!("{part}: {error}");
            let record = self.state.records.iter_mut().find(|record| Some(record.name.as_str()) == name);
            let is_left_out = match (record, step) {
                (_, Step::Start { unit }) => self.state.failed_units.insert(unit.clone()),
                (Some(record), _) => remove_part(record, part),
                (None, _) => false,
            };
            changed |= is_left_out;
            let domain = if is_left_out { name } else { None };
            self.fail(domain, Some(part), &message);
        }
        changed
    }

    /// Reports the domains whose CPUs cannot be isolated while other domains are active. If another domain stops, they
    /// can get their CPUs.
    fn note_refusals(&mut self, before: &Topology) {
        for (name, refusal) in update_refusals(&mut self.state.records, before) {
            match refusal {
                Some(problem) => self.report(Some(&name), Some(Part::Isolate), &problem),
                None => tracing::info!(
                    MESSAGE_ID = kind::HOST_PREPARED,
                    WAKEVIRT_DOMAIN = name,
                    "the CPUs of {} are isolated now",
                    quoted(&name)
                ),
            }
        }
    }

    /// Reports the result, and forgets the host's previous values if they are restored.
    fn finish(&mut self, event: Option<(&str, Operation)>) {
        self.state.is_changing = false;
        let units: BTreeSet<_> = desired(&self.state.records, &Topology::default()).units;
        self.state.failed_units.retain(|unit| units.contains(unit));
        if !self.is_pending {
            self.state.failures.retain(|failure| failure.domain.is_some());
        }
        if self.state.records.is_empty() && !self.is_pending && self.state.before.take().is_some() {
            self.state.applied = HostState::default();
            tracing::info!(MESSAGE_ID = kind::HOST_RESTORED, "the host is as before: no domain needs it");
        }
        self.save();
        let Some((name, operation)) = event else { return };
        let record = self.state.records.iter().find(|record| record.name == name);
        if let Some(record) = record.filter(|record| record.problems().next().is_none()) {
            let is_new = matches!(operation, Operation::Prepare | Operation::Reconnect);
            if is_new && (operation == Operation::Prepare || record.phase == Phase::Started) {
                tracing::info!(
                    MESSAGE_ID = kind::HOST_PREPARED,
                    WAKEVIRT_DOMAIN = name,
                    "the host is prepared for {}",
                    quoted(name)
                );
            }
        }
    }
}

/// Removes what failed from a record. Returns whether the record contained it.
fn remove_part(record: &mut Record, part: Part) -> bool {
    match part {
        Part::Hugepages => !std::mem::take(&mut record.pages).is_empty(),
        Part::Compact => std::mem::take(&mut record.compact),
        Part::Isolate => !std::mem::take(&mut record.isolated).is_empty(),
        Part::Weight => record.weight.take().is_some(),
        // `failed_units` contains them.
        Part::Units => false,
    }
}
