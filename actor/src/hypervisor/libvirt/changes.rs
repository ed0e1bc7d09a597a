//! What libvirt's events say, until the link takes it: bounded, however many there are.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use super::events::Listener;

/// Domains that may wait to be read again. Beyond that all of them are listed anew.
pub(super) const MOST: usize = 16_384;

/// What has changed at one connection, each domain once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    news: Mutex<News>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct News {
    domains: HashSet<Uuid>,
    too_many: bool,
    closed: Option<&'static str>,
}

/// What a connection tells by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Something about these domains has changed: they are to be read again.
    Domains(HashSet<Uuid>),
    /// More domains have changed than are remembered: all are to be listed again.
    TooMany,
    /// The connection is lost, for this reason.
    Closed(&'static str),
}

impl Changes {
    /// Waits for the next change. Nothing is lost if it is given up.
    pub(super) async fn next(&self) -> Change {
        loop {
            if let Some(change) = self.news().take() {
                return change;
            }
            self.notify.notified().await;
        }
    }

    /// Waits until the connection is lost, and takes nothing.
    pub(super) async fn lost(&self) {
        while !self.is_closed() {
            self.notify.notified().await;
        }
    }

    /// Whether the connection is lost.
    pub(super) fn is_closed(&self) -> bool {
        self.news().closed.is_some()
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    fn take(&mut self) -> Option<Change> {
        if let Some(reason) = self.closed {
            return Some(Change::Closed(reason));
        }
        if std::mem::take(&mut self.too_many) {
            self.domains = HashSet::new();
            return Some(Change::TooMany);
        }
        (!self.domains.is_empty()).then(|| Change::Domains(std::mem::take(&mut self.domains)))
    }
}

impl Listener for Changes {
    fn changed(&self, uuid: Uuid) {
        let mut news = self.news();
        if news.domains.len() < MOST {
            news.domains.insert(uuid);
        } else {
            news.too_many |= !news.domains.contains(&uuid);
        }
        drop(news);
        self.notify.notify_one();
    }

    fn closed(&self, reason: &'static str) {
        self.news().closed.get_or_insert(reason);
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(number: usize) -> Uuid {
        Uuid::from_u128(number.try_into().unwrap())
    }

    #[tokio::test]
    async fn tells_each_domain_once() {
        let changes = Changes::default();
        for number in [1, 2, 1, 1] {
            changes.changed(uuid(number));
        }
        assert_eq!(changes.next().await, Change::Domains(HashSet::from([uuid(1), uuid(2)])));
        changes.changed(uuid(1));
        assert_eq!(changes.next().await, Change::Domains(HashSet::from([uuid(1)])));
    }

    #[tokio::test]
    async fn asks_for_a_list_where_too_many_change() {
        let changes = Changes::default();
        for number in 0..10 * MOST {
            changes.changed(uuid(number));
        }
        assert_eq!(changes.news().domains.len(), MOST);
        assert_eq!(changes.next().await, Change::TooMany);
        changes.changed(uuid(1));
        assert_eq!(changes.next().await, Change::Domains(HashSet::from([uuid(1)])), "as before");
    }

    #[tokio::test]
    async fn the_end_comes_first_and_stays() {
        let changes = Changes::default();
        changes.changed(uuid(1));
        changes.closed("gone");
        changes.closed("again");
        assert!(changes.is_closed());
        assert_eq!(changes.next().await, Change::Closed("gone"));
        assert_eq!(changes.next().await, Change::Closed("gone"));
    }
}
