//! The actor's program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use wakevirt_actor::Options;

fn main() -> ExitCode {
    match wakevirt_actor::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => wakevirt_actor::exit_code(&error),
    }
}
