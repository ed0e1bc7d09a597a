//! The verbs. Each module has the options of a verb, and the function that runs it.

pub mod allow;
mod caller;
pub mod doctor;
pub mod domain;
pub mod explain;
mod finding;
pub mod forbid;
pub mod history;
pub mod host;
pub mod list;
pub mod metrics;
pub mod monitor;
pub mod read;
mod reading;
pub mod send;
pub mod show;
pub mod status;
mod units;
pub mod wake;

use crate::output::Style;

/// The UDP port of Wake-on-LAN.
const PORT: u16 = 9;

/// The style of an outcome.
fn style_of(outcome: &str) -> Style {
    match outcome {
        "started" | "resumed" | "woken" => Style::Good,
        "already-running" | "cooling-down" | "held" => Style::Plain,
        "failed" => Style::Bad,
        _ => Style::Warning,
    }
}
