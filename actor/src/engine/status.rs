//! The published status: connections, the number of domains, and the domains' MAC addresses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wakevirt_service::lifecycle;

use super::Engine;
use crate::announcer::Macs;

/// How long changes are collected before they are published together.
pub(super) const PUBLISH_DELAY: Duration = Duration::from_millis(50);

/// The connections to hypervisors, and the number of known domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The URIs of the hypervisors, and whether each is connected.
    pub connections: Vec<(Arc<str>, bool)>,
    /// When each hypervisor was last lost: CLOCK_REALTIME, in microseconds; 0 if it never was.
    pub lost_at: Vec<u64>,
    /// The URI of each unavailable hypervisor, and why it is unavailable, if the reason is known.
    pub errors: Vec<(Arc<str>, Arc<str>)>,
    /// The number of known domains.
    pub domains: u32,
}

impl Status {
    /// For each hypervisor, the URI and the last time at which the list of its domains was current: `now` if it is
    /// connected, 0 if it never was. CLOCK_REALTIME, in microseconds.
    #[must_use]
    pub fn last_sync(&self, now: u64) -> Vec<(String, u64)> {
        let connections = self.connections.iter().zip(&self.lost_at);
        connections
            .map(|((uri, connected), lost_at)| (uri.to_string(), if *connected { now } else { *lost_at }))
            .collect()
    }

    /// The status as one line of text, for the service manager.
    #[must_use]
    pub fn summary(&self) -> String {
        let s = if self.domains == 1 { "" } else { "s" };
        let connections: Vec<String> = self
            .connections
            .iter()
            .map(|(uri, connected)| format!("{uri}{}", if *connected { "" } else { " (unavailable)" }))
            .collect();
        format!("{} domain{s} on {}", self.domains, connections.join(", "))
    }
}

impl Engine {
    /// Publishes the status after [`PUBLISH_DELAY`], together with other changes made until then.
    pub(super) fn publish_soon(&mut self) {
        self.publish_at.get_or_insert_with(|| Instant::now() + PUBLISH_DELAY);
    }

    /// Publishes the status and the MAC addresses, each only if it has changed.
    pub(super) fn publish(&mut self) {
        self.publish_at = None;
        let macs: Macs = Arc::new(self.index.macs());
        self.outputs.macs.send_if_modified(|published| {
            let changed = **published != *macs;
            *published = macs;
            changed
        });
        let connections = self.hypervisors.connections();
        let domains = u32::try_from(self.index.domains().len()).unwrap_or(u32::MAX);
        let status = Status {
            connections,
            lost_at: self.hypervisors.lost_at(),
            errors: self.hypervisors.errors(),
            domains,
        };
        lifecycle::status(&status.summary());
        self.outputs.status.send_if_modified(|published| {
            let changed = *published != status;
            *published = status;
            changed
        });
    }
}
