//! wakevirt's capture service: announces the magic packets that its sniffer hears.
//!
//! The sniffer, a program and a crate of its own (`capture/sniffer`), reads packets and can do nothing else;
//! the announcer speaks to the bus and never sees a packet's bytes.

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

/// Does what the command line asks for.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let done = if options.common.check { check(options) } else { service::run(options).map_err(Into::into) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => lifecycle::exit_code("wakevirt-capture", &*error, is_misconfigured(&*error)),
    }
}

/// Whether only another configuration would help.
fn is_misconfigured(error: &(dyn std::error::Error + 'static)) -> bool {
    let from_service = matches!(error.downcast_ref(), Some(error::Error::Config(_)));
    from_service || error.is::<wakevirt_service::config::Error>()
}

type Anything = Box<dyn std::error::Error>;

fn check(options: &Options) -> Result<(), Anything> {
    let settings = Settings::load(options)?;
    if options.common.quiet {
        return Ok(());
    }
    Ok(writeln!(io::stdout(), "# The configuration is good:\n{settings}")?)
}
