//! Reads each domain that a connection reports as changed, and passes it on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::monitor::Monitor;
use wakevirt_actor::hypervisor::{HypervisorError, Updates};
use wakevirt_libvirt::changes::{Change, Changes, MAX_CHANGES, Report};
use wakevirt_service::logs::kind;

/// How long changes to a domain are collected before the domain is read. A start causes several changes, and reading
/// the domain at the same time would delay the call that starts it.
const COLLECT_TIME: Duration = Duration::from_millis(10);

/// Reads domains that have changed.
pub(super) struct Follower<'driver> {
    uri: &'driver str,
    monitor: &'driver mut Monitor,
    updates: &'driver Updates,
    /// The domains to read. A domain that changes several times is read once.
    changing: HashSet<Uuid>,
    /// When to read each of them.
    due: VecDeque<(Instant, Uuid)>,
}

impl<'driver> Follower<'driver> {
    pub(super) fn new(uri: &'driver str, monitor: &'driver mut Monitor, updates: &'driver Updates) -> Self {
        Self { uri, monitor, updates, changing: HashSet::new(), due: VecDeque::new() }
    }

    /// Reports changes until the connection is lost; returns the reason.
    pub(super) async fn run(&mut self, changes: &Changes) -> &'static str {
        loop {
            let next = self.due.front().map_or_else(Instant::now, |(when, _)| *when);
            tokio::select! {
                biased;
                change = changes.next() => match change {
                    Change::Closed(reason) => return reason,
                    Change::Domains(domains) if domains.len() + self.due.len() <= MAX_CHANGES => {
                        self.schedule(domains).await;
                    }
                    Change::Domains(_) | Change::TooMany => {
                        if let Err(error) = self.list().await {
                            tracing::warn!(
                                MESSAGE_ID = kind::DOMAINS_UNREADABLE,
                                WAKEVIRT_CONNECTION = self.uri,
                                "too many domains on {} changed at once, and they cannot be listed: {error}",
                                self.uri
                            );
                            return "its domains cannot be listed";
                        }
                    }
                },
                () = tokio::time::sleep_until(next), if !self.due.is_empty() => {
                    if let Some((_, uuid)) = self.due.pop_front() {
                        self.changing.remove(&uuid);
                        self.read(uuid).await;
                    }
                }
            }
        }
    }

    async fn schedule(&mut self, domains: HashMap<Uuid, Report>) {
        for (uuid, report) in domains {
            if report == Report::Running {
                self.updates.running(uuid).await;
            }
            if self.changing.insert(uuid) {
                self.due.push_back((Instant::now() + COLLECT_TIME, uuid));
                self.updates.changing(uuid).await;
            }
        }
    }

    /// Lists all domains, instead of reading each one that has changed.
    async fn list(&mut self) -> Result<(), HypervisorError> {
        self.changing.clear();
        self.due.clear();
        self.updates.all(self.monitor.domains().await?).await;
        Ok(())
    }

    async fn read(&mut self, uuid: Uuid) {
        match self.monitor.domain(uuid).await {
            Ok(Some(domain)) => self.updates.domain(domain).await,
            Ok(None) => self.updates.gone(uuid).await,
            Err(error) => tracing::warn!(
                MESSAGE_ID = kind::DOMAIN_UNREADABLE,
                WAKEVIRT_UUID = %uuid,
                WAKEVIRT_CONNECTION = self.uri,
                "domain {uuid} has changed but cannot be read; the old definition stays in use: {error}"
            ),
        }
    }
}
