//! Switches a monitor to a domain, and back to the host, with ddcutil(1).

mod ddcutil;
mod saved;

use std::path::Path;

use uuid::Uuid;
use wakevirt_host::config::Config;
use wakevirt_host::state::{self, StateError};
use wakevirt_service::config::ConfigError;
use wakevirt_service::logs::quoted;

use ddcutil::DdcError;
use saved::SavedError;

/// The user of the unit.
const USER: &str = "wakevirt-ddc";

/// Why a monitor cannot be switched. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The records of wakevirt-host cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// No table with a monitor matches the domain.
    #[error(
        "host.toml names no monitor for the domain {}; add the monitor key to a [[domain]] table that matches it",
        quoted(_0)
    )]
    NoMonitor(String),
    /// The switched monitor cannot be stored or read.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// ddcutil(1) failed.
    #[error(transparent)]
    Ddc(#[from] DdcError),
}

/// Switches the domain's monitor to the domain. `directory` stores which monitor it is.
///
/// # Errors
/// If the configuration names no monitor for the domain, or the monitor cannot be switched.
pub fn to_domain(name: &str, directory: &Path) -> Result<(), Error> {
    let config = Config::load(None, USER)?;
    let monitor = config.settings_for(name, uuid_of(name)?).and_then(|settings| settings.monitor);
    let monitor = monitor.ok_or_else(|| Error::NoMonitor(name.to_owned()))?;
    saved::write(directory, name, &monitor)?;
    Ok(ddcutil::set(&monitor, monitor.vm)?)
}

/// Switches the monitor that `directory` stores for the domain back to the host. Does nothing if no monitor is stored.
///
/// # Errors
/// If the monitor cannot be switched.
pub fn to_host(name: &str, directory: &Path) -> Result<(), Error> {
    let Some(monitor) = saved::read(directory, name)? else { return Ok(()) };
    saved::remove(directory, name)?;
    Ok(ddcutil::set(&monitor, monitor.host)?)
}

/// The UUID of the domain in the records of wakevirt-host, because a table of the configuration can name the UUID.
fn uuid_of(name: &str) -> Result<Option<Uuid>, StateError> {
    let records = state::read(Path::new(state::FILE))?.map(|state| state.records).unwrap_or_default();
    Ok(records.into_iter().find(|record| record.name == name).and_then(|record| record.uuid))
}
