//! The progress of a wake, on a terminal.

use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;
use wakevirt_service::logs::plain;

/// The maximum length of the name that is shown, in characters.
const MAX_NAME: usize = 60;
/// How often the seconds are updated.
const INTERVAL: Duration = Duration::from_secs(1);

/// One line on standard error, which is overwritten, and removed at the end. If standard error is not a terminal,
/// nothing is printed.
#[derive(Debug)]
pub(super) struct Progress {
    name: String,
    phase: Cell<&'static str>,
    start: Instant,
    is_terminal: bool,
    /// Whether the line is shown. A hidden line leaves the terminal to a password prompt.
    is_shown: Cell<bool>,
}

impl Progress {
    /// Creates the progress of waking this domain. If it is `hidden`, nothing is printed until the next phase.
    pub(super) fn new(name: &str, hidden: bool) -> Self {
        Self {
            name: plain(name, MAX_NAME).to_string(),
            phase: Cell::new("waking"),
            start: Instant::now(),
            is_terminal: io::stderr().is_terminal(),
            is_shown: Cell::new(!hidden),
        }
    }

    /// Shows this phase from now on.
    pub(super) fn show(&self, phase: &'static str) {
        self.phase.set(phase);
        self.is_shown.set(true);
        self.draw();
    }

    /// Updates the time until the future is dropped.
    pub(super) async fn update(&self) -> ! {
        loop {
            self.draw();
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn draw(&self) {
        let seconds = self.start.elapsed().as_secs();
        self.overwrite(&format!("{}: {} ({seconds} s)", self.name, self.phase.get()));
    }

    /// Overwrites the line (ECMA-48, "erase in line"). The line is truncated, because a wrapped line cannot be overwritten.
    fn overwrite(&self, line: &str) {
        if self.is_terminal && self.is_shown.get() {
            let columns =
                rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| usize::from(size.ws_col));
            let line: String = line.chars().take(columns.saturating_sub(1)).collect();
            let _ = write!(io::stderr(), "\r{line}\u{1b}[K").and_then(|()| io::stderr().flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.overwrite("");
        if self.is_terminal && self.is_shown.get() {
            let _ = write!(io::stderr(), "\r");
        }
    }
}
