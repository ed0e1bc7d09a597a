//! `wakevirtctl`, the command-line tool of wakevirt.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    wakevirt_ctl::run(&wakevirt_ctl::Options::parse())
}
