//! What wakevirt costs, from the wire on: `make bench`.
//!
//! Each figure stands beside something that was measured in the same run, so that the ratio says
//! something on any machine. Nothing is asserted: a machine that is busy is slow. With
//! `WAKEVIRT_BENCH_JSON=FILE` the figures are added to the JSON object in that file.
//! docs/PERFORMANCE.md says what each figure means.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark may stop where it stands")]

mod bridge;
mod bus;
mod flood;
mod packets;
mod process;
mod report;
mod signal;
mod singles;
mod start;

use std::process::ExitCode;

use wakevirt_tests::host::guard::{FOR_DEMO, why_not};

use crate::report::Report;

/// What is called besides what the demonstration calls.
const PROGRAMS: [&str; 4] =
    ["dbus-broker-launch", "qemu-system-x86_64", "systemd-socket-activate", "tcpdump"];

/// What is measured: its name, its title, and how.
type Section = (&'static str, &'static str, fn(&mut Report));

const SECTIONS: [Section; 5] = [
    ("signal", "From sendto() to the signal at a subscriber, one packet at a time", signal::measure),
    ("start", "From sendto() to a domain that was started", start::measure),
    ("flood", "CPU seconds for a million frames, and what is lost", flood::measure),
    ("singles", "Single packets beside a flood for other domains, on the same interface", singles::measure),
    ("bridge", "What a bridge with two ports forwards, 64-byte UDP", bridge::measure),
];

fn main() -> ExitCode {
    if let Some(reason) = why_not(&[FOR_DEMO, &PROGRAMS].concat()) {
        println!("the benchmark cannot run here: {reason}");
        return ExitCode::FAILURE;
    }
    // cargo bench adds an option of its own; names choose what is measured.
    let chosen: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut report = Report::new();
    for (name, title, measure) in SECTIONS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            report.section(name, title, measure);
        }
    }
    report.write();
    ExitCode::SUCCESS
}
