//! Which hypervisors there are, and which of them are connected.

use std::sync::Arc;

use crate::hypervisor::Hypervisor;

/// The hypervisors, in the order of the configuration. What is known of the domains of one that is away stays known.
pub(super) struct Hypervisors(Vec<Place>);

struct Place {
    uri: Arc<str>,
    link: Option<Arc<dyn Hypervisor>>,
    /// Whether it was connected once, or the first attempt has failed.
    tried: bool,
}

impl Hypervisors {
    /// Those at these URIs; none is connected.
    pub(super) fn new(uris: &[Arc<str>]) -> Self {
        Self(uris.iter().map(|uri| Place { uri: Arc::clone(uri), link: None, tried: false }).collect())
    }

    /// The one at this URI, if it is connected.
    pub(super) fn get(&self, uri: &str) -> Option<&Arc<dyn Hypervisor>> {
        self.0.iter().find(|place| *place.uri == *uri)?.link.as_ref()
    }

    pub(super) fn up(&mut self, uri: &str, link: Arc<dyn Hypervisor>) {
        self.set(uri, Some(link));
    }

    pub(super) fn down(&mut self, uri: &str) {
        self.set(uri, None);
    }

    fn set(&mut self, uri: &str, link: Option<Arc<dyn Hypervisor>>) {
        if let Some(place) = self.0.iter_mut().find(|place| *place.uri == *uri) {
            place.link = link;
            place.tried = true;
        }
    }

    /// Whether there may be domains that are not known.
    pub(super) fn is_one_away(&self) -> bool {
        self.0.iter().any(|place| place.link.is_none())
    }

    /// Those that are not connected, in words; `None` if all are.
    pub(super) fn missing(&self) -> Option<String> {
        let missing: Vec<&str> =
            self.0.iter().filter(|place| place.link.is_none()).map(|place| &*place.uri).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    /// Whether each was connected once, or cannot be for now.
    pub(super) fn are_settled(&self) -> bool {
        self.0.iter().all(|place| place.tried)
    }

    /// All URIs.
    pub(super) fn uris(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|place| &*place.uri)
    }

    /// All URIs, and whether each is connected.
    pub(super) fn connections(&self) -> Vec<(Arc<str>, bool)> {
        self.0.iter().map(|place| (Arc::clone(&place.uri), place.link.is_some())).collect()
    }
}
