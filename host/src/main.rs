//! The `wakevirt-host` program: prepares the host for its domains.

use std::process::ExitCode;

use clap::Parser as _;
use wakevirt_host::daemon::{self, Options};

fn main() -> ExitCode {
    match daemon::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::exit_code(&error).into(),
    }
}
