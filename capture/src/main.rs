//! `wakevirt-capture`: receives magic packets and announces them on D-Bus.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    wakevirt_capture::run(&wakevirt_capture::Options::parse())
}
