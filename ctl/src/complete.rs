//! Completion in shells. The installed scripts run the program with `COMPLETE` in the environment.

use clap::CommandFactory as _;
use clap_complete::CompleteEnv;

use crate::options::Options;

/// If a shell requests completions, prints them and exits.
pub fn reply_to_shell() {
    CompleteEnv::with_factory(Options::command).complete();
}
