//! The actor: receives announced magic packets and wakes the domains that the policy allows.
//!
//! Each module can use those before it in this list: [`model`] holds the values that the others exchange, [`policy`]
//! decides, [`config`] reads the configuration, [`announcer`] receives packets from capture, [`hypervisor`] connects to
//! hypervisors, [`engine`] holds all state in one task, and [`api`] is the D-Bus interface.

pub mod announcer;
pub mod api;
pub mod config;
mod daemon;
pub mod engine;
mod error;
pub mod hypervisor;
pub mod model;
pub mod policy;
pub mod privilege;

use std::io::Write as _;

use wakevirt_service::{lifecycle, logs};

pub use config::Options;
pub use error::Error;

use crate::hypervisor::Driver;
use crate::model::Program;

/// Runs the service with this kind of hypervisor until a signal asks it to exit.
///
/// # Errors
/// If the service cannot start, or another instance is running.
pub fn run<D: Driver>(options: &Options) -> Result<(), Error> {
    privilege::drop_all(&D::PROGRAM)?;
    if options.common.check {
        return check(options, &D::PROGRAM);
    }
    let config = config::Config::load(options, &D::PROGRAM)?;
    D::prepare(&config.connections).map_err(Error::Start)?;
    let logs = logs::init(&config.log, options.common.log_to)?;
    // Locked until the process exits.
    let _lock = engine::state_file::lock()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let result = runtime.block_on(daemon::run::<D>(options, config, &logs));
    engine::state_file::mark_clean_exit();
    lifecycle::stopping();
    // Do not wait for calls in progress: the hypervisor completes them. Their threads still run after this function.
    runtime.shutdown_background();
    // Waits for the journal while the lock is held.
    drop(logs);
    result
}

/// Reads the configuration, and prints it unless `--quiet` is set.
fn check(options: &Options, program: &Program) -> Result<(), Error> {
    let (config, skipped) = config::Config::check(options, program)?;
    if options.common.quiet {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "# The configuration is valid:\n{config}").map_err(Error::Start)?;
    for password in skipped {
        writeln!(out, "# Not read, because only the service can read it: {password}")
            .map_err(Error::Start)?;
    }
    Ok(())
}

/// Reports the error that makes the service exit, and returns the exit code.
#[must_use]
pub fn exit_code<D: Driver>(error: &Error) -> u8 {
    lifecycle::exit_code(D::PROGRAM.name, error, matches!(error, Error::Config(_) | Error::SecureOn(_)))
}
