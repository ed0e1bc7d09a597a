//! The most recent decisions, how often each outcome has occurred, and when each domain was last woken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use wakevirt_service::clock;

use crate::engine::report::Decision;
use crate::engine::request::Counts;
use crate::model::{Id, Packet};

/// The maximum number of stored decisions.
const MAX_DECISIONS: usize = 1000;
/// The maximum memory for stored decisions, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// The record of decisions. It is lost when the process exits.
#[derive(Default)]
pub(super) struct History {
    counts: Counts,
    /// Newest first, each with its number. Numbers start at 1.
    decisions: VecDeque<(u64, Arc<Decision>)>,
    /// The number of the newest decision.
    newest: u64,
    /// The memory that the decisions take, in bytes.
    bytes: usize,
    last_wakes: HashMap<Id, LastWake>,
}

/// When a wake last succeeded, on two clocks: one for replies, one for the cool-down.
#[derive(Clone, Copy)]
struct LastWake {
    /// CLOCK_REALTIME, in microseconds. The administrator can set this clock.
    time: u64,
    at: Instant,
}

impl History {
    pub(super) fn add(&mut self, decision: &Arc<Decision>) {
        *self.counts.outcomes.entry(decision.outcome).or_default() += 1;
        if let Some(latency) = decision.latency.filter(|_| decision.outcome.is_success()) {
            self.counts.latency.add(latency);
        }
        self.newest += 1;
        self.bytes += decision.size();
        self.decisions.push_front((self.newest, Arc::clone(decision)));
        while self.decisions.len() > MAX_DECISIONS || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.decisions.pop_back() else { break };
            self.bytes -= oldest.size();
        }
        if let (true, Some((id, _))) = (decision.outcome.is_success(), &decision.subject.domain) {
            let last_wake = LastWake { time: decision.time, at: Instant::now() };
            self.last_wakes.insert(id.clone(), last_wake);
        }
    }

    /// Counts a packet for a MAC address that no domain has.
    pub(super) fn count_unknown(&mut self, packet: &Packet) {
        self.counts.unknown += 1;
        self.counts.unknown_addresses.add(packet, clock::realtime());
    }

    /// Forgets the last wake of a domain.
    pub(super) fn forget_domain(&mut self, id: &Id) {
        self.last_wakes.remove(id);
    }

    /// Forgets the last wakes of this hypervisor's domains that no longer exist.
    pub(super) fn retain_domains(&mut self, uri: &str, exists: impl Fn(&Id) -> bool) {
        self.last_wakes.retain(|id, _| &*id.connection != uri || exists(id));
    }

    /// When a wake of the domain last succeeded.
    pub(super) fn last_success(&self, id: &Id) -> Option<Instant> {
        self.last_wakes.get(id).map(|last_wake| last_wake.at)
    }

    /// When a wake of the domain last succeeded: CLOCK_REALTIME, in microseconds.
    pub(super) fn last_success_time(&self, id: &Id) -> Option<u64> {
        self.last_wakes.get(id).map(|last_wake| last_wake.time)
    }

    /// At most `limit` decisions with a number below `before`, newest first.
    pub(super) fn decisions(&self, before: u64, limit: usize) -> Vec<(u64, Arc<Decision>)> {
        self.decisions.iter().filter(|(number, _)| *number < before).take(limit).cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, Subject};

    fn decision(length: usize) -> Arc<Decision> {
        let id = Id { connection: "test:///".into(), uuid: uuid::Uuid::nil() };
        let text = || "ü".repeat(length);
        let mut subject = Subject::new(None, None, Some(text()), None);
        subject.domain = Some((id, text()));
        Arc::new(Decision::new(subject, Outcome::Failed, text(), 0))
    }

    /// The numbers of all decisions, read in pages of seven.
    fn numbers_in_pages(history: &History) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let page = history.decisions(numbers.last().copied().unwrap_or(u64::MAX), 7);
            if page.is_empty() {
                return numbers;
            }
            numbers.extend(page.iter().map(|(number, _)| *number));
        }
    }

    #[test]
    fn limits_the_number_and_the_memory_of_decisions() {
        for (length, minimum) in [(1, MAX_DECISIONS), (100_000, 250)] {
            let mut history = History::default();
            for number in 1..=5000 {
                history.add(&decision(length));
                let bytes: usize = history.decisions.iter().map(|(_, it)| it.size()).sum();
                assert_eq!(history.bytes, bytes);
                assert!(bytes <= MAX_BYTES && history.decisions.len() <= MAX_DECISIONS);
                assert_eq!(history.decisions(u64::MAX, 1)[0].0, number, "the newest is always stored");
            }
            let all = history.decisions(u64::MAX, usize::MAX);
            assert!((minimum..=MAX_DECISIONS).contains(&all.len()), "{}", all.len());
            let numbers: Vec<_> = all.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers_in_pages(&history), numbers);
        }
    }
}
