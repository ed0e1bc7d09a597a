//! The status in words, which `systemctl status` shows: what the service does, and behind it what is wrong
//! meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sd_notify::NotifyState;

use super::notify;

/// The longest text about one trouble, in bytes: systemd takes 4 KiB in all.
const LONGEST: usize = 1000;

/// What may be wrong while the service goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The last reload has failed.
    Reload,
    /// No capture is on the bus.
    Capture,
}

/// What was told.
#[derive(Debug)]
struct Told {
    work: String,
    /// Each with its text, in the order in which they began.
    troubles: Vec<(Trouble, String)>,
}

static TOLD: Mutex<Told> = Mutex::new(Told { work: String::new(), troubles: Vec::new() });

fn told() -> MutexGuard<'static, Told> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Told {
    fn words(&self) -> String {
        let troubles = self.troubles.iter().map(|(_, text)| text.as_str());
        let parts = core::iter::once(self.work.as_str()).chain(troubles).filter(|text| !text.is_empty());
        parts.collect::<Vec<_>>().join("; ")
    }
}

/// Tells the service manager what the service does, for people to read.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&work(status))]);
}

/// Notes what the service does, and returns the whole status.
pub(super) fn work(status: &str) -> String {
    let mut told = told();
    told.work = one_line(status);
    told.words()
}

/// Tells the service manager what is wrong, in addition to what the service does, until it ends.
pub fn begin_trouble(trouble: Trouble, text: &str) {
    let mut told = told();
    told.troubles.retain(|(other, _)| *other != trouble);
    let end = text.floor_char_boundary(LONGEST);
    told.troubles.push((trouble, one_line(text.get(..end).unwrap_or_default())));
    notify(&[NotifyState::Status(&told.words())]);
}

/// Tells the service manager that this is not wrong any more.
pub fn end_trouble(trouble: Trouble) {
    let mut told = told();
    let before = told.troubles.len();
    told.troubles.retain(|(other, _)| *other != trouble);
    if told.troubles.len() < before {
        notify(&[NotifyState::Status(&told.words())]);
    }
}

/// A line break would begin another statement to the service manager: sd_notify(3).
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
