//! Brings back domains that were put to sleep.

use std::time::{Duration, Instant};

use wakevirt_host::sleep::SleepMode;
use wakevirt_service::logs::{kind, quoted};

use super::asleep::Entry;
use super::workers::{run, wait_for};
use crate::libvirt::{Connection, Guest, LibvirtError, State};

/// The delay before libvirt is called again, if it is unavailable.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Brings back these domains in parallel, and logs the results. Returns how many could not be brought back.
pub(super) fn bring_back(uri: &str, entries: &[Entry], deadline: Instant) -> usize {
    // The devices of the daemon may have to wake up first.
    while let Err(error) = Connection::open(uri) {
        if Instant::now() + RETRY_INTERVAL > deadline {
            tracing::error!(MESSAGE_ID = kind::GUEST_NOT_AWAKE, "no domain is brought back: {error}");
            return entries.len();
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
    let results = run(uri, entries, deadline, attempt);
    let late = || Err("libvirt has not replied in time".to_owned());
    let results = results.into_iter().map(|result| result.unwrap_or_else(late));
    entries.iter().zip(results).filter(|(entry, result)| !log(entry, result)).count()
}

/// Brings back one domain. Returns whether it was asleep.
fn attempt(
    connection: Result<&Connection, &LibvirtError>,
    entry: &Entry,
    deadline: Instant,
) -> Result<bool, String> {
    let connection = connection.map_err(ToString::to_string)?;
    // It may have been deleted in the meantime.
    let Some(guest) = connection.guest(entry.uuid).map_err(|error| error.to_string())? else {
        return Ok(false);
    };
    wake(&guest, entry.how, deadline).map_err(|error| error.to_string())
}

/// Reverses what the domain was asked to do, if it did that. Others may have woken it already.
fn wake(guest: &Guest, how: SleepMode, deadline: Instant) -> Result<bool, LibvirtError> {
    if how == SleepMode::Save && guest.state()? == State::Changing {
        // Without permission to abort it, the save ends first.
        if let Err(error) = guest.abort_save() {
            tracing::debug!("{error}");
        }
    }
    match (how, wait_for(guest, deadline, |state| state != State::Changing)?) {
        (SleepMode::Suspend, State::Suspended) => guest.wake()?,
        (SleepMode::Pause, State::Paused) => guest.resume()?,
        (SleepMode::Save, State::Saved) | (SleepMode::Hibernate | SleepMode::Shutdown, State::Off) => {
            guest.start()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Logs the result. Returns whether it is a success.
fn log(entry: &Entry, result: &Result<bool, String>) -> bool {
    let name = quoted(&entry.name);
    match result {
        Ok(true) => {
            tracing::info!(MESSAGE_ID = kind::GUEST_AWAKE, WAKEVIRT_DOMAIN = entry.name, WAKEVIRT_UUID = %entry.uuid, "awake: domain {name}");
        }
        Ok(false) => tracing::debug!("domain {name} was not asleep"),
        Err(reason) => tracing::error!(
            MESSAGE_ID = kind::GUEST_NOT_AWAKE,
            WAKEVIRT_DOMAIN = entry.name, WAKEVIRT_UUID = %entry.uuid,
            "not awake: domain {name}: {reason}"
        ),
    }
    result.is_ok()
}
