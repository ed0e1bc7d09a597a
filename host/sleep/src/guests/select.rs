//! The domains that are put to sleep: those that run and have a setting for it.

use uuid::Uuid;
use wakevirt_host::config::{Config, Settings};
use wakevirt_host::sleep::{OnFailure, SleepMode, refusal};

use super::asleep::Entry;
use crate::libvirt::{Connection, Guest, LibvirtError, State};

/// A running domain that is to sleep.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) how: SleepMode,
    pub(super) on_failure: OnFailure,
    /// Why it cannot sleep in this way, if this is known.
    pub(super) refusal: Option<String>,
}

impl Candidate {
    pub(super) fn entry(&self) -> Entry {
        Entry { name: self.name.clone(), uuid: self.uuid, how: self.how }
    }

    fn new(guest: &Guest, how: SleepMode, configured: Option<OnFailure>) -> Self {
        // If the definition cannot be read, the guest could use a PCI device of the host.
        let (refusal, default) = match guest.abilities() {
            Ok(abilities) => {
                (refusal(how, &abilities).map(str::to_owned), OnFailure::default_for(&abilities))
            }
            Err(error) => (Some(error.to_string()), OnFailure::StayAwake),
        };
        let on_failure = configured.unwrap_or(default);
        Self { name: guest.name.clone(), uuid: guest.uuid, how, on_failure, refusal }
    }
}

/// The running domains for which `how` returns a value.
pub(super) fn running(
    connection: &Connection,
    config: &Config,
    how: impl Fn(&Settings) -> Option<SleepMode>,
) -> Result<Vec<Candidate>, LibvirtError> {
    let mut candidates = Vec::new();
    for guest in connection.active()? {
        let Some(settings) = config.settings_for(&guest.name, Some(guest.uuid)) else { continue };
        let Some(how) = how(&settings) else { continue };
        // A domain that has just stopped has no state.
        if guest.state().is_ok_and(|state| state == State::Running) {
            candidates.push(Candidate::new(&guest, how, settings.on_failure));
        }
    }
    Ok(candidates)
}
