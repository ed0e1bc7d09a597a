//! Puts domains to sleep, and brings back those that this program has put to sleep.

mod asleep;
mod bring_back;
mod put_to_sleep;
mod select;
mod stopping;
mod workers;

use std::time::Instant;

use wakevirt_host::config::{Config, Settings};
use wakevirt_host::sleep::OnFailure;
use wakevirt_service::logs::{kind, quoted};

use crate::error::Error;
use crate::libvirt::Connection;
use asleep::{Asleep, Entry};
use put_to_sleep::put_to_sleep;
use select::{Candidate, running};
pub(crate) use stopping::is_stopping;

/// Puts each running domain with `sleep` to sleep, in parallel, for at most `sleep-wait`.
///
/// # Errors
/// If the host must stay awake. The domains that were put to sleep have been brought back.
pub(crate) fn suspend(uri: &str, config: &Config) -> Result<(), Error> {
    if !config.any(|settings| settings.sleep.is_some()) {
        return Ok(());
    }
    let deadline = Instant::now() + config.sleep_wait;
    let listed = Connection::open(uri).and_then(|connection| running(&connection, config, |it| it.sleep));
    let candidates = match listed {
        Ok(candidates) => candidates,
        Err(error) if config.any(stays_awake_for_unknown) => return Err(Error::Unknown(error)),
        Err(error) => {
            tracing::warn!(
                MESSAGE_ID = kind::GUEST_NOT_ASLEEP,
                "the host sleeps without its domains: {error}"
            );
            return Ok(());
        }
    };
    let asleep = Asleep::open();
    // Written first: if this process is killed, `resume` finds the domains, and their states say what to do.
    asleep.replace(candidates.iter().map(Candidate::entry).collect())?;
    let results = put_to_sleep(uri, &candidates, deadline);
    let failed: Vec<&Candidate> =
        candidates.iter().zip(&results).filter(|(_, result)| !result.is_asleep()).map(|(it, _)| it).collect();
    let tried = candidates.iter().zip(&results).filter(|(_, result)| result.was_asked());
    asleep.replace(tried.map(|(candidate, _)| candidate.entry()).collect())?;
    let must: Vec<String> = failed
        .iter()
        .filter(|it| it.on_failure == OnFailure::StayAwake)
        .map(|it| quoted(&it.name).to_string())
        .collect();
    if must.is_empty() {
        return Ok(());
    }
    let cause = Error::StayAwake(must.join(", "));
    if let Err(error) = resume(uri, config) {
        tracing::error!(MESSAGE_ID = kind::GUEST_NOT_AWAKE, "{error}");
    }
    Err(cause)
}

/// Brings back the domains that [`suspend`] has put to sleep, in parallel, for at most `sleep-wait`.
///
/// # Errors
/// If libvirt stays unavailable, or some of them cannot be brought back.
pub(crate) fn resume(uri: &str, config: &Config) -> Result<(), Error> {
    let asleep = Asleep::open();
    let entries = asleep.entries();
    if entries.is_empty() {
        return Ok(());
    }
    let failed = bring_back::bring_back(uri, &entries, Instant::now() + config.sleep_wait);
    asleep.replace(Vec::<Entry>::new())?;
    if failed == 0 { Ok(()) } else { Err(Error::Failed(failed, entries.len())) }
}

/// Saves, hibernates or shuts down each running domain with `shutdown`, in parallel, for at most `shutdown-wait`.
///
/// # Errors
/// If libvirt is unavailable, or some of them still run.
pub(crate) fn shutdown(uri: &str, config: &Config) -> Result<(), Error> {
    if !config.any(|settings| settings.shutdown.is_some()) {
        return Ok(());
    }
    let deadline = Instant::now() + config.shutdown_wait;
    let connection = Connection::open(uri)?;
    let candidates = running(&connection, config, |it| it.shutdown.map(Into::into))?;
    let results = put_to_sleep(uri, &candidates, deadline);
    let failed = results.iter().filter(|result| !result.is_asleep()).count();
    if failed == 0 { Ok(()) } else { Err(Error::Failed(failed, candidates.len())) }
}

/// Whether the host stays awake if a domain with these settings could be running. A guest could use a PCI device of the
/// host, and then the default is to stay awake.
fn stays_awake_for_unknown(settings: &Settings) -> bool {
    settings.sleep.is_some() && settings.on_failure != Some(OnFailure::Sleep)
}
