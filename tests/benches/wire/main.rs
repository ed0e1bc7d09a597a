//! Measures the performance of wakevirt with real packets: `make bench`.
//!
//! Most figures have a baseline from the same run, so that their ratio can be compared between machines. A bad result
//! does not fail the run, because a busy machine is slow. With `WAKEVIRT_BENCH_JSON=FILE`, the results are added to the
//! JSON object in that file. docs/PERFORMANCE.md explains each figure.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![expect(clippy::expect_used, clippy::panic, reason = "a failure stops the benchmark")]

mod appear;
mod bridge;
mod bus;
mod domains;
mod flood;
mod floods;
mod idle;
mod idleness;
mod packets;
mod process;
mod report;
mod signal;
mod singles;
mod start;
mod tool;

use std::process::ExitCode;

use wakevirt_tests::host::guard::{FOR_DEMO, missing_requirement};

use crate::report::Report;

/// The programs that are needed in addition to those of the demonstration.
const PROGRAMS: [&str; 4] =
    ["dbus-broker-launch", "qemu-system-x86_64", "systemd-socket-activate", "tcpdump"];

/// A section of the report: name, title, and the function that measures.
type Section = (&'static str, &'static str, fn(&mut Report));

const SECTIONS: [Section; 8] = [
    ("signal", "From sendto() to the signal, one packet at a time", signal::measure),
    ("start", "From sendto() to the start of a domain", start::measure),
    ("floods", "Single packets during a flood", floods::measure),
    ("singles", "Single packets during a flood for other domains on the same interface", singles::measure),
    ("flood", "CPU seconds for a million frames, and lost frames", flood::measure),
    ("appear", "Lost packets after an interface has appeared", appear::measure),
    ("bridge", "Forwarding by a bridge with two ports, UDP in 64-byte frames", bridge::measure),
    ("idle", "Without packets, and at the start", idle::measure),
];

/// Sections that take long, and run only if they are named.
const LONG: [Section; 2] = [
    ("soak-latency", "From sendto() to the start of a domain, after idleness", idleness::measure),
    ("soak-floods", "Single packets during a flood", floods::soak),
];

fn main() -> ExitCode {
    if let Some(reason) = missing_requirement(&[FOR_DEMO, &PROGRAMS].concat()) {
        println!("The benchmark cannot run here: {reason}");
        return ExitCode::FAILURE;
    }
    // The arguments are names of sections. cargo bench adds an option.
    let chosen: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut report = Report::new();
    let is_chosen = |name: &str| chosen.iter().any(|chosen| chosen == name);
    for (name, title, measure) in SECTIONS {
        if chosen.is_empty() || is_chosen(name) {
            report.section(name, title, measure);
        }
    }
    for (name, title, measure) in LONG.into_iter().filter(|(name, _, _)| is_chosen(name)) {
        report.section(name, title, measure);
    }
    report.write();
    ExitCode::SUCCESS
}
