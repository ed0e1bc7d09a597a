//! `wakevirtctl`, the command-line tool of wakevirt.

use std::process::ExitCode;

use clap::Parser as _;
use wakevirt_ctl::options::Options;

fn main() -> ExitCode {
    wakevirt_ctl::complete::reply_to_shell();
    wakevirt_ctl::run(&Options::parse())
}
