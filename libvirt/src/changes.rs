//! A bounded queue of the changes that libvirt's events report.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::events::Listener;

/// The maximum number of domains that are queued for reading. Beyond that, all domains are listed.
pub const MAX_CHANGES: usize = 16_384;

/// The changes of one connection. Each domain is queued at most once.
#[derive(Debug, Default)]
pub struct Changes {
    queue: Mutex<Queue>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    domains: HashMap<Uuid, Report>,
    too_many: bool,
    closed: Option<&'static str>,
}

/// A change that a connection reports.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// These domains have changed and must be read.
    Domains(HashMap<Uuid, Report>),
    /// More domains have changed than fit into the queue: all must be listed.
    TooMany,
    /// The connection was lost, for this reason.
    Closed(&'static str),
}

/// What the events about a domain report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It has changed.
    Changed,
    /// It has changed, and has started or was resumed.
    Running,
}

impl Changes {
    /// Waits for the next change. No change is lost if the future is dropped.
    pub async fn next(&self) -> Change {
        loop {
            if let Some(change) = self.queue().take() {
                return change;
            }
            self.notify.notified().await;
        }
    }

    /// Waits until the connection is lost. Changes stay in the queue.
    pub async fn lost(&self) {
        while !self.is_closed() {
            self.notify.notified().await;
        }
    }

    /// Whether the connection was lost.
    pub fn is_closed(&self) -> bool {
        self.queue().closed.is_some()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn add(&mut self, uuid: Uuid, report: Report) {
        if let Some(earlier) = self.domains.get_mut(&uuid) {
            if report == Report::Running {
                *earlier = report;
            }
        } else if self.domains.len() < MAX_CHANGES {
            self.domains.insert(uuid, report);
        } else {
            self.too_many = true;
        }
    }

    fn take(&mut self) -> Option<Change> {
        if let Some(reason) = self.closed {
            return Some(Change::Closed(reason));
        }
        if std::mem::take(&mut self.too_many) {
            self.domains = HashMap::new();
            return Some(Change::TooMany);
        }
        (!self.domains.is_empty()).then(|| Change::Domains(std::mem::take(&mut self.domains)))
    }
}

impl Listener for Changes {
    fn changed(&self, uuid: Uuid) {
        self.queue().add(uuid, Report::Changed);
        self.notify.notify_one();
    }

    fn running(&self, uuid: Uuid) {
        self.queue().add(uuid, Report::Running);
        self.notify.notify_one();
    }

    fn closed(&self, reason: &'static str) {
        self.queue().closed.get_or_insert(reason);
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(number: usize) -> Uuid {
        Uuid::from_u128(number.try_into().unwrap())
    }

    fn changed(numbers: &[usize]) -> Change {
        Change::Domains(numbers.iter().map(|number| (uuid(*number), Report::Changed)).collect())
    }

    #[tokio::test]
    async fn a_domain_that_started_is_reported_as_running() {
        let changes = Changes::default();
        changes.changed(uuid(1));
        changes.running(uuid(1));
        changes.changed(uuid(1));
        assert_eq!(changes.next().await, Change::Domains(HashMap::from([(uuid(1), Report::Running)])));
    }

    #[tokio::test]
    async fn returns_each_domain_once() {
        let changes = Changes::default();
        for number in [1, 2, 1, 1] {
            changes.changed(uuid(number));
        }
        assert_eq!(changes.next().await, changed(&[1, 2]));
        changes.changed(uuid(1));
        assert_eq!(changes.next().await, changed(&[1]));
    }

    #[tokio::test]
    async fn requests_a_list_if_too_many_domains_change() {
        let changes = Changes::default();
        for number in 0..10 * MAX_CHANGES {
            changes.changed(uuid(number));
        }
        assert_eq!(changes.queue().domains.len(), MAX_CHANGES);
        assert_eq!(changes.next().await, Change::TooMany);
        changes.changed(uuid(1));
        assert_eq!(changes.next().await, changed(&[1]));
    }

    #[tokio::test]
    async fn a_lost_connection_is_reported_first_and_repeatedly() {
        let changes = Changes::default();
        changes.changed(uuid(1));
        changes.closed("first");
        changes.closed("second");
        assert!(changes.is_closed());
        assert_eq!(changes.next().await, Change::Closed("first"));
        assert_eq!(changes.next().await, Change::Closed("first"));
    }
}
