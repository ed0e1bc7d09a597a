//! The configured hypervisors, and which of them are available.

use std::sync::Arc;

use wakevirt_service::clock;
use wakevirt_service::logs::plain;

use crate::hypervisor::{Commands, Endpoint, Hypervisor};

/// The maximum length of the reason why a hypervisor is unavailable, in characters.
const MAX_ERROR: usize = 1024;

/// The hypervisors, in the order of the configuration. The engine retains the domains of a hypervisor that becomes
/// unavailable.
pub(super) struct Hypervisors(Vec<Entry>);

struct Entry {
    endpoint: Endpoint,
    connection: Option<Arc<dyn Hypervisor>>,
    /// Whether it has been connected, or the first attempt has failed.
    tried: bool,
    /// When it became unavailable: CLOCK_REALTIME, in microseconds. 0 until it is connected for the first time.
    lost_at: u64,
    /// Why it is unavailable; empty if it is available, or the reason is unknown.
    error: Arc<str>,
}

impl Hypervisors {
    /// These hypervisors, none of which is connected yet.
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        let entry =
            |endpoint| Entry { endpoint, connection: None, tried: false, lost_at: 0, error: "".into() };
        Self(endpoints.into_iter().map(entry).collect())
    }

    /// The hypervisor with this URI, if it is connected.
    pub(super) fn get(&self, uri: &str) -> Option<&Arc<dyn Hypervisor>> {
        self.0.iter().find(|entry| *entry.endpoint.uri == *uri)?.connection.as_ref()
    }

    pub(super) fn set_available(&mut self, uri: &str, connection: Arc<dyn Hypervisor>) {
        self.set(uri, Some(connection));
    }

    pub(super) fn set_unavailable(&mut self, uri: &str) {
        self.set(uri, None);
    }

    fn set(&mut self, uri: &str, connection: Option<Arc<dyn Hypervisor>>) {
        if let Some(entry) = self.0.iter_mut().find(|entry| *entry.endpoint.uri == *uri) {
            if entry.connection.is_some() && connection.is_none() {
                entry.lost_at = clock::realtime();
            }
            if connection.is_some() {
                entry.error = "".into();
            }
            entry.connection = connection;
            entry.tried = true;
        }
    }

    /// Sets why a hypervisor is unavailable. Ignored if it is available.
    pub(super) fn set_error(&mut self, uri: &str, reason: &str) {
        let entry = self.0.iter_mut().find(|entry| *entry.endpoint.uri == *uri && entry.connection.is_none());
        if let Some(entry) = entry {
            entry.error = plain(reason, MAX_ERROR).to_string().into();
        }
    }

    /// Why each unavailable hypervisor is unavailable, if the reason is known.
    pub(super) fn errors(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let failed = self.0.iter().filter(|entry| !entry.error.is_empty());
        failed.map(|entry| (Arc::clone(&entry.endpoint.uri), Arc::clone(&entry.error))).collect()
    }

    /// Whether any hypervisor is unavailable: it may have domains that are not known.
    pub(super) fn is_any_unavailable(&self) -> bool {
        self.0.iter().any(|entry| entry.connection.is_none())
    }

    /// The URIs of the unavailable hypervisors, as a list for a message; `None` if all are connected.
    pub(super) fn unavailable(&self) -> Option<String> {
        let uris: Vec<&str> = self.unavailable_uris().collect();
        (!uris.is_empty()).then(|| uris.join(", "))
    }

    /// The URIs of the unavailable hypervisors.
    pub(super) fn unavailable_uris(&self) -> impl Iterator<Item = &str> {
        let unavailable = self.0.iter().filter(|entry| entry.connection.is_none());
        unavailable.map(|entry| &*entry.endpoint.uri)
    }

    /// Whether each hypervisor has been connected, or its first attempt has failed.
    pub(super) fn are_settled(&self) -> bool {
        self.0.iter().all(|entry| entry.tried)
    }

    /// A command for each hypervisor, as a list for a message.
    pub(super) fn commands(&self, which: impl Fn(&Commands) -> &str) -> String {
        let commands: Vec<_> = self.0.iter().map(|entry| which(&entry.endpoint.commands)).collect();
        commands.join(" or ")
    }

    /// When each hypervisor became unavailable, 0 if it has never been connected. In the order of
    /// [`Self::connections`].
    pub(super) fn lost_at(&self) -> Vec<u64> {
        self.0.iter().map(|entry| entry.lost_at).collect()
    }

    /// All URIs, and whether each one is connected.
    pub(super) fn connections(&self) -> Vec<(Arc<str>, bool)> {
        self.0.iter().map(|entry| (Arc::clone(&entry.endpoint.uri), entry.connection.is_some())).collect()
    }
}
