//! Starts the domains of the `autostart` key once after each boot.

use wakevirt_service::logs::{kind, quoted};

use super::Engine;
use crate::model::{Domain, Subject};
use crate::policy::rules::Handling;

impl Engine {
    /// Wakes the domains of this hypervisor that `autostart` names, if it is connected for the first time since boot.
    ///
    /// There is no state file after a boot. If it cannot be written, or its content was lost, nothing is started: a
    /// domain that a user has shut down must not start again because the service was restarted.
    pub(super) fn autostart(&mut self, uri: &str) {
        if self.autostarted.iter().any(|done| done == uri) {
            return;
        }
        let is_named = |domain: &&Domain| self.policy.autostart.iter().any(|name| has_name(domain, name));
        let of_hypervisor = self.index.domains().filter(|domain| *domain.id.connection == *uri);
        let mut named: Vec<Domain> = of_hypervisor.filter(is_named).cloned().collect();
        let is_known = self.state_file.is_available() && self.not_before == 0;
        if !named.is_empty() && !is_known {
            named.clear();
            tracing::warn!(
                MESSAGE_ID = kind::AUTOSTART_SKIPPED,
                "autostart is skipped: the state file cannot be read or written, so the service does not know whether \
                 it has already started the domains since boot"
            );
        }
        for domain in named {
            let subject = Subject::new(None, Some(&domain), None, None);
            self.wake(domain.id, subject, Handling::default(), Vec::new());
        }
        // Saved together with the wakes, before the first domain is started: the next process continues them after a crash.
        self.autostarted.push(uri.to_owned());
        self.unsaved = true;
    }

    /// Warns about each name in `autostart` that no domain has.
    pub(super) fn check_autostart(&self) {
        for name in &self.policy.autostart {
            if !self.index.domains().any(|domain| has_name(domain, name)) {
                let list = self.hypervisors.commands(|it| &it.list_domains);
                tracing::warn!(
                    MESSAGE_ID = kind::AUTOSTART_UNKNOWN,
                    WAKEVIRT_DOMAIN = name,
                    "autostart: no domain has the name or UUID {}; {list} lists the domains",
                    quoted(name)
                );
            }
        }
    }
}

fn has_name(domain: &Domain, name_or_uuid: &str) -> bool {
    domain.name == name_or_uuid
        || uuid::Uuid::parse_str(name_or_uuid).is_ok_and(|uuid| uuid == domain.id.uuid)
}
