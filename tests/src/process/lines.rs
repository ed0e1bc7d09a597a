//! Collects the output lines of a program.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::wait::TIMEOUT;

/// The lines of a stream. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    shared: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Lines {
    /// Reads the stream in a new thread until it ends.
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                writer.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
        lines
    }

    /// Adds a line.
    pub fn push(&self, line: String) {
        self.lock().push(line);
        self.shared.1.notify_all();
    }

    /// All lines so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// The last lines, at most `max` of them, joined with newlines.
    #[must_use]
    pub fn last(&self, max: usize) -> String {
        let lines = self.lock();
        lines.get(lines.len().saturating_sub(max)..).unwrap_or_default().join("\n")
    }

    /// The number of lines so far that contain this text.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.lock().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line that contains this text, and returns the first one. The line might have been read before the
    /// call.
    ///
    /// # Panics
    /// After [`TIMEOUT`], with all lines in the message.
    #[must_use = "use the line, or write `let _ =` if you only wait for it"]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(text, 1)
    }

    /// Waits for the `nth` line (counted from 1) that contains this text, and returns it.
    ///
    /// # Panics
    /// After [`TIMEOUT`], with all lines in the message.
    pub fn wait_for_nth(&self, text: &str, nth: usize) -> String {
        self.within(TIMEOUT, text, nth).unwrap_or_else(|| {
            panic!(
                "line {nth} with {text:?} is missing after {TIMEOUT:?}; all lines:\n{}",
                self.all().join("\n")
            )
        })
    }

    /// Waits for the `nth` line (counted from 1) that contains this text, for at most this time.
    #[must_use]
    pub fn within(&self, time: Duration, text: &str, nth: usize) -> Option<String> {
        let find = |lines: &[String]| {
            lines.iter().filter(|line| line.contains(text)).nth(nth.saturating_sub(1)).cloned()
        };
        let (lines, _) = self
            .shared
            .1
            .wait_timeout_while(self.lock(), time, |lines| find(lines).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        find(&lines)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_earlier_and_later_lines() {
        let lines = Lines::of(&b"one\ntwo\none more"[..]);
        assert_eq!(lines.wait_for_nth("one", 2), "one more");
        assert_eq!(lines.wait_for("one"), "one");
        assert_eq!(lines.count("one"), 2);
        assert_eq!(lines.last(2), "two\none more");
        assert_eq!(lines.last(9), "one\ntwo\none more");
        assert_eq!(lines.within(Duration::ZERO, "three", 1), None);
        lines.push("three".to_owned());
        assert_eq!(lines.wait_for("three"), "three");
    }
}
