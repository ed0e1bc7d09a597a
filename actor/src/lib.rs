//! wakevirt's actor: hears announced magic packets and starts the domains that may be woken.
//!
//! The way of a packet: [`listen`] believes it, [`merge`] takes it once, [`index`] finds the domain,
//! [`decision`] decides (by the password that [`fetch`] gets, where a rule asks for one), [`wake`] does
//! it, [`report`] tells. [`caller`] says who may call. [`actor`] holds these together and [`memory`] what
//! is to outlive the process; [`hypervisor`] is the only module that knows what runs VMs, and [`bus`] the
//! only one that knows how the actor looks on the bus.

pub mod actor;
pub mod bus;
pub mod caller;
pub mod config;
mod daemon;
pub mod decision;
pub mod domain_xml;
mod error;
pub mod fetch;
pub mod hypervisor;
pub mod index;
pub mod interest;
mod interfaces;
pub mod listen;
pub mod lost;
pub mod memory;
pub mod merge;
mod options;
pub mod privilege;
pub mod refusal;
pub mod report;
pub mod request;
pub mod rules;
pub mod wake;

use std::io::Write as _;
use std::process::ExitCode;

use wakevirt_service::{lifecycle, logs};

pub use error::Error;
pub use options::Options;

/// Runs the service until it is asked to end.
///
/// # Errors
/// If it cannot start, or another instance runs.
pub fn run(options: &Options) -> Result<(), Error> {
    privilege::give_up()?;
    if options.common.check {
        return check(options);
    }
    let config = config::Config::load(options)?;
    hypervisor::libvirt::forbid_autostart(&config.connections)?;
    let logs = logs::init(config.log, options.common.log_to)?;
    // Held until the process has ended.
    let _lock = memory::lock()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let result = runtime.block_on(daemon::serve(options, config, &logs));
    memory::ended_in_order();
    lifecycle::stopping();
    // A call to libvirt that is under way is not waited for: it goes on in its daemon.
    runtime.shutdown_background();
    result
}

/// Reads the configuration, and shows it unless the caller wants to know only what is wrong.
fn check(options: &Options) -> Result<(), Error> {
    let (config, left_out) = config::Config::check(options)?;
    if options.common.quiet {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The configuration is good:\n{config}").map_err(Error::Start)?;
    for password in left_out {
        writeln!(out, "# Not read, since the service manager passes it to the service alone: {password}")
            .map_err(Error::Start)?;
    }
    Ok(())
}

/// Tells why the service ends: in the log, or on standard error where there is no log yet.
#[must_use]
pub fn failure(error: &Error) -> ExitCode {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{error}");
    } else {
        // Where there is no standard error either, the exit code tells.
        let _ = writeln!(std::io::stderr(), "wakevirt-actor: {error}");
    }
    match error {
        Error::Config(_) | Error::SecureOn(_) => lifecycle::misconfigured(),
        _ => lifecycle::failed(),
    }
}
