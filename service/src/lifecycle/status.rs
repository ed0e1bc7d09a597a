//! The status text that `systemctl status` shows: what the service is doing, followed by its current warnings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sd_notify::NotifyState;

use super::notify;

/// The maximum length of a warning, in bytes: systemd accepts 4 KiB in total.
const MAX_TEXT: usize = 1000;

/// A problem that does not stop the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// The last reload failed.
    Reload,
    /// Capture is not on the bus.
    Capture,
}

#[derive(Debug)]
struct Status {
    activity: String,
    /// The warnings with their texts, oldest first.
    warnings: Vec<(Warning, String)>,
}

static STATUS: Mutex<Status> = Mutex::new(Status { activity: String::new(), warnings: Vec::new() });

fn current() -> MutexGuard<'static, Status> {
    STATUS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    fn text(&self) -> String {
        let warnings = self.warnings.iter().map(|(_, text)| text.as_str());
        let parts = core::iter::once(self.activity.as_str()).chain(warnings).filter(|text| !text.is_empty());
        parts.collect::<Vec<_>>().join("; ")
    }
}

/// Reports to the service manager what the service is doing, as human-readable text.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&set_activity(status))]);
}

/// Records what the service is doing, and returns the whole status text.
pub(super) fn set_activity(status: &str) -> String {
    let mut current = current();
    current.activity = one_line(status);
    current.text()
}

/// Adds a warning to the status, or replaces its text. [`clear_warning`] removes it.
pub fn set_warning(warning: Warning, text: &str) {
    let mut current = current();
    current.warnings.retain(|(other, _)| *other != warning);
    let end = text.floor_char_boundary(MAX_TEXT);
    current.warnings.push((warning, one_line(text.get(..end).unwrap_or_default())));
    notify(&[NotifyState::Status(&current.text())]);
}

/// Removes a warning from the status.
pub fn clear_warning(warning: Warning) {
    let mut current = current();
    let before = current.warnings.len();
    current.warnings.retain(|(other, _)| *other != warning);
    if current.warnings.len() < before {
        notify(&[NotifyState::Status(&current.text())]);
    }
}

/// Replaces control characters: a line break would begin another assignment for the service manager (sd_notify(3)).
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
