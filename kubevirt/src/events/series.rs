//! Which decisions become Events: one Event for each virtual machine and outcome in ten minutes, which counts them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;
use wakevirt_actor::model::Outcome;

/// How long further decisions count towards the same Event.
const LENGTH: Duration = Duration::from_secs(600);
/// The minimum time between two changes of an Event.
const INTERVAL: Duration = Duration::from_secs(10);
/// The maximum number of Events that are remembered.
const MAX_SERIES: usize = 1024;

/// A virtual machine and an outcome.
pub(super) type Key = (Uuid, Outcome);

/// An Event that further decisions count towards.
#[derive(Debug)]
struct Series {
    namespace: String,
    name: String,
    begin: Instant,
    written: Instant,
    count: i32,
    /// Whether `count` has changed since it was written.
    is_changed: bool,
}

/// A change to an Event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The number of decisions.
    pub count: i32,
}

/// The Events of the last ten minutes.
#[derive(Debug, Default)]
pub(super) struct AllSeries(HashMap<Key, Series>);

impl AllSeries {
    /// Counts a decision. Returns false if it needs a new Event.
    pub fn count(&mut self, key: Key, now: Instant) -> bool {
        match self.0.get_mut(&key) {
            Some(series) if now < series.begin + LENGTH => {
                series.count = series.count.saturating_add(1);
                series.is_changed = true;
                true
            }
            _ => false,
        }
    }

    /// Whether there is room for another Event. Forgets old ones.
    pub fn has_room(&mut self, now: Instant) -> bool {
        if self.0.len() >= MAX_SERIES {
            self.0.retain(|_, series| now < series.begin + LENGTH);
        }
        self.0.len() < MAX_SERIES
    }

    /// Remembers a new Event.
    pub fn begin(&mut self, key: Key, namespace: &str, name: &str, now: Instant) {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let series = Series { namespace, name, begin: now, written: now, count: 1, is_changed: false };
        self.0.insert(key, series);
    }

    /// Forgets an Event that no longer exists.
    pub fn forget(&mut self, name: &str) {
        self.0.retain(|_, series| series.name != name);
    }

    /// When the next Event must be changed.
    pub fn next_due(&self) -> Option<Instant> {
        let changed = self.0.values().filter(|series| series.is_changed);
        changed.map(|series| series.written + INTERVAL).min()
    }

    /// An Event that must be changed now.
    pub fn due(&mut self, now: Instant) -> Option<Change> {
        let is_due = |series: &&mut Series| series.is_changed && series.written + INTERVAL <= now;
        let series = self.0.values_mut().find(is_due)?;
        (series.written, series.is_changed) = (now, false);
        Some(Change { namespace: series.namespace.clone(), name: series.name.clone(), count: series.count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_decisions_for_ten_minutes() {
        let (mut all, now) = (AllSeries::default(), Instant::now());
        let key = (Uuid::nil(), Outcome::CoolingDown);
        assert!(!all.count(key, now));
        all.begin(key, "n", "a", now);
        assert!(!all.count((Uuid::nil(), Outcome::Started), now));
        for second in 1..=5 {
            assert!(all.count(key, now + Duration::from_secs(second)));
        }
        assert_eq!(all.next_due(), Some(now + INTERVAL));
        assert_eq!(all.due(now + INTERVAL - Duration::from_millis(1)), None);
        let change = Change { namespace: "n".to_owned(), name: "a".to_owned(), count: 6 };
        assert_eq!(all.due(now + INTERVAL), Some(change));
        assert_eq!((all.due(now + INTERVAL), all.next_due()), (None, None));
        assert!(!all.count(key, now + LENGTH));
        all.forget("a");
        assert!(!all.count(key, now));
    }

    #[test]
    fn remembers_a_limited_number_of_events() {
        let (mut all, now) = (AllSeries::default(), Instant::now());
        for number in 0..MAX_SERIES {
            assert!(all.has_room(now));
            all.begin((Uuid::from_u128(number as u128), Outcome::Started), "n", &number.to_string(), now);
        }
        assert!(!all.has_room(now) && all.has_room(now + LENGTH));
    }
}
