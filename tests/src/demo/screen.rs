//! The output of the demonstration. Only terminals get colours.

use std::io::{IsTerminal, Write, stdout};
use std::panic;

use crate::demo::events::Event;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    colours: bool,
}

impl Screen {
    /// Uses colours if standard output is a terminal and `NO_COLOR` is not set (<https://no-color.org>).
    pub(super) fn new() -> Self {
        Self { colours: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Ends the demonstration if a step fails: the test bench panics. All processes that it started end with this one.
    pub(super) fn fail_on_panic(self) {
        panic::set_hook(Box::new(move |panic| {
            let reason = panic.payload_as_str().unwrap_or("unknown reason");
            let (reason, more) = reason.split_once('\n').unwrap_or((reason, ""));
            more.lines().for_each(|line| self.note(line));
            self.failure(&format!("The demonstration failed: {reason}"));
            std::process::exit(1);
        }));
    }

    pub(super) fn title(self, text: &str) {
        self.line(&self.in_colour(BOLD, text));
    }

    pub(super) fn heading(self, text: &str) {
        self.line("");
        self.line(&self.in_colour(BOLD, text));
    }

    pub(super) fn item(self, name: &str, text: &str) {
        self.line(&format!("  {name:<11} {text}"));
    }

    pub(super) fn note(self, text: &str) {
        self.line(&format!("    {}", self.in_colour(DIM, text)));
    }

    pub(super) fn packet(self, what: &str) {
        self.line(&format!("  ▸ {what}"));
    }

    /// An event, and the time since the packet was received.
    pub(super) fn event(self, event: &Event, received: Option<u64>) {
        let (now, name, text) = match event {
            Event::Packet { mac, details, now, .. } => (now, "announced", format!("{mac} {details}")),
            Event::Decision { domain, outcome, reason, now } => {
                let woken = matches!(outcome.as_str(), "started" | "resumed");
                let colour = if woken { GREEN } else { YELLOW };
                (now, "decided", format!("{domain}: {}, {reason}", self.in_colour(colour, outcome)))
            }
        };
        let after = received.map_or_else(String::new, |received| milliseconds(now.saturating_sub(received)));
        self.line(&format!("    {} {name:<9} {text}", self.in_colour(DIM, &format!("{after:>9}"))));
    }

    pub(super) fn silence(self, text: &str) {
        self.line(&format!("    {:>9} {}", "", self.in_colour(DIM, text)));
    }

    /// A shell command that makes a call, and the reply.
    pub(super) fn call(self, line: &str, reply: &str) {
        self.line(&format!("  ▸ {line}"));
        self.line(&format!("    {}", self.in_colour(BOLD, reply)));
    }

    pub(super) fn denial(self, what: &str, error: &str) {
        self.line(&format!("  ▸ {what:<36} {}", self.in_colour(YELLOW, error)));
    }

    pub(super) fn domain(self, name: &str, mac: &str, before: &str, after: &str) {
        let colour = if after == "running" { GREEN } else { DIM };
        self.line(&format!("  {name:<9} {mac}   {before} → {}", self.in_colour(colour, after)));
    }

    /// A table. The width of each column is that of its longest cell.
    pub(super) fn table<const N: usize>(self, heads: &[String; N], rows: impl Iterator<Item = [String; N]>) {
        let rows: Vec<_> = rows.collect();
        let width = |column: usize| {
            let cells = rows.iter().chain([heads]).filter_map(|row| row.get(column));
            cells.map(String::len).max().unwrap_or_default()
        };
        let text = |row: &[String; N]| {
            let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(&format!("    {}", self.in_colour(DIM, &text(heads))));
        for row in &rows {
            self.line(&format!("    {}", text(row)));
        }
    }

    pub(super) fn success(self, text: &str) {
        self.line("");
        self.line(&self.in_colour(GREEN, text));
    }

    pub(super) fn failure(self, text: &str) {
        self.line("");
        self.line(&self.in_colour(RED, text));
    }

    fn in_colour(self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Ignores errors, because standard output might be closed.
    fn line(self, text: &str) {
        let _ = writeln!(stdout(), "{text}");
    }
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}
