//! The preparation of the host: its configuration and the state file of wakevirt-host.

use std::path::Path;

use wakevirt_host::config::Config;
use wakevirt_host::state::{self, State};

use crate::verbs::finding::{Seen, not_checked};

/// The user of the service.
const USER: &str = "wakevirt-host";

/// What doctor has seen of the preparation of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Whether `host.toml` contains a table.
    pub is_configured: bool,
    /// Why the configuration is invalid.
    pub invalid: Option<String>,
    /// The state of the service.
    pub state: State,
}

/// Reads the configuration and the state.
///
/// # Errors
/// If the state file cannot be read.
pub fn read() -> Seen<Preparation> {
    let state = state::read(Path::new(state::FILE));
    let failed = |error: state::StateError| {
        not_checked("the preparation of the host", error.to_string(), "wakevirtctl host status")
    };
    let state = state.map_err(failed)?.unwrap_or_default();
    let (is_configured, invalid) = match Config::load(None, USER) {
        Ok(config) => (config.patterns().next().is_some(), None),
        Err(error) => (false, Some(error.to_string())),
    };
    Ok(Preparation { is_configured, invalid, state })
}
