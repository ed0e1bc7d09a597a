//! Puts domains to sleep.

use std::time::{Duration, Instant};

use wakevirt_host::sleep::SleepMode;
use wakevirt_service::logs::{kind, quoted};

use super::select::Candidate;
use super::workers::{run, wait_for};
use crate::libvirt::{Connection, LibvirtError, State};

/// How long before the deadline a domain that does not sleep is reported, so that its thread can still do so.
const REPORT_TIME: Duration = Duration::from_millis(500);

/// The result for one domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is asleep.
    Asleep,
    /// It was not asked, or refused at once, for this reason.
    Refused(String),
    /// It was asked, but it is not asleep, for this reason. It may sleep later.
    Late(String),
}

impl Attempt {
    pub(super) const fn is_asleep(&self) -> bool {
        matches!(self, Self::Asleep)
    }

    /// Whether it is asleep or may sleep later.
    pub(super) const fn was_asked(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// Puts these domains to sleep in parallel, and logs the results, which are in the same order.
pub(super) fn put_to_sleep(uri: &str, candidates: &[Candidate], deadline: Instant) -> Vec<Attempt> {
    let results = run(uri, candidates, deadline, attempt);
    let late = || Attempt::Late("libvirt has not replied in time".to_owned());
    let attempts: Vec<Attempt> = results.into_iter().map(|result| result.unwrap_or_else(late)).collect();
    candidates.iter().zip(&attempts).for_each(|(candidate, attempt)| log(candidate, attempt));
    attempts
}

fn attempt(
    connection: Result<&Connection, &LibvirtError>,
    candidate: &Candidate,
    deadline: Instant,
) -> Attempt {
    if let Some(reason) = &candidate.refusal {
        return Attempt::Refused(reason.clone());
    }
    let guest = match connection.map(|connection| connection.guest(candidate.uuid)) {
        Ok(Ok(Some(guest))) => guest,
        // It has stopped in the meantime.
        Ok(Ok(None)) => return Attempt::Asleep,
        Ok(Err(error)) => return Attempt::Refused(error.to_string()),
        Err(error) => return Attempt::Refused(error.to_string()),
    };
    if let Err(error) = guest.ask(candidate.how) {
        // libvirt may have waited for a long time, and the guest may still do what it was asked to.
        return Attempt::Late(error.to_string());
    }
    let deadline = deadline.checked_sub(REPORT_TIME).unwrap_or(deadline);
    match wait_for(&guest, deadline, |state| is_asleep(candidate.how, state)) {
        Ok(state) if is_asleep(candidate.how, state) => Attempt::Asleep,
        Ok(_) => Attempt::Late("the guest has not reacted in time".to_owned()),
        Err(error) => Attempt::Late(error.to_string()),
    }
}

/// Whether this is the state that the domain was asked to reach.
const fn is_asleep(how: SleepMode, state: State) -> bool {
    match how {
        SleepMode::Suspend => matches!(state, State::Suspended),
        SleepMode::Pause => matches!(state, State::Paused),
        SleepMode::Save => matches!(state, State::Saved),
        SleepMode::Hibernate | SleepMode::Shutdown => matches!(state, State::Off | State::Saved),
    }
}

fn log(candidate: &Candidate, attempt: &Attempt) {
    let (name, how) = (quoted(&candidate.name), candidate.how.name());
    match attempt {
        Attempt::Asleep => tracing::info!(
            MESSAGE_ID = kind::GUEST_ASLEEP,
            WAKEVIRT_DOMAIN = candidate.name, WAKEVIRT_UUID = %candidate.uuid,
            "asleep: domain {name} ({how})"
        ),
        Attempt::Refused(reason) | Attempt::Late(reason) => tracing::error!(
            MESSAGE_ID = kind::GUEST_NOT_ASLEEP,
            WAKEVIRT_DOMAIN = candidate.name, WAKEVIRT_UUID = %candidate.uuid,
            "not asleep: domain {name} ({how}): {reason}"
        ),
    }
}
