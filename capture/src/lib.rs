//! wakevirt's capture service: announces the magic packets that its sniffer captures.
//!
//! The sniffer is a separate program and crate (`capture/sniffer`). It parses packets in a sandbox. The announcer
//! publishes them on the bus, and never sees the bytes of a packet.

pub mod bus;
pub mod config;
mod error;
pub mod network;
pub mod packets;
mod service;
mod shared;
mod sniffer;

use std::io::{self, Write as _};
use std::process::ExitCode;

use wakevirt_service::lifecycle;

use config::Settings;
pub use config::options::Options;

/// Runs the service, or checks its configuration. Returns the exit code.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let result =
        if options.common.check { check(options) } else { service::run(options).map_err(Into::into) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => lifecycle::exit_code("wakevirt-capture", &*error, is_misconfigured(&*error)).into(),
    }
}

/// Whether the configuration must be corrected before a restart can succeed.
fn is_misconfigured(error: &(dyn std::error::Error + 'static)) -> bool {
    let from_service = matches!(error.downcast_ref(), Some(error::Error::Config(_)));
    from_service || error.is::<wakevirt_service::config::ConfigError>()
}

fn check(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::load(options)?;
    if options.common.quiet {
        return Ok(());
    }
    Ok(writeln!(io::stdout(), "# The configuration is valid:\n{settings}")?)
}
