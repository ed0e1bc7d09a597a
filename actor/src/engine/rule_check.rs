//! What the log says of rules that come to nothing, once all domains are known.

use wakevirt_service::logs::shown;

use super::Engine;

impl Engine {
    /// Warns of rules that mean no domain, and where nothing is allowed at all. Before all domains are known
    /// nobody can tell.
    pub(super) fn check_rules(&mut self) {
        if self.checked || self.hypervisors.is_one_unavailable() {
            return;
        }
        self.checked = true;
        let rules = &self.policy.rules;
        for rule in rules.iter().filter(|rule| rule.is_for_domains()) {
            if !self.index.domains().any(|domain| rule.names(domain)) {
                let list = self.hypervisors.commands(|it| &it.list_domains);
                tracing::warn!("no domain is meant by the rule {rule}; {list} shows the domains");
            }
        }
        if rules.is_empty() {
            self.tell_what_metadata_allow();
        }
    }

    fn tell_what_metadata_allow(&self) {
        let rules = &self.policy.rules;
        match self.index.domains().filter(|domain| rules.allowed_by_metadata(domain)).count() {
            0 => {
                let nor = if rules.metadata() { ", and no domain's metadata allow it" } else { "" };
                tracing::warn!(
                    "no packet can wake anything: there is no rule{nor}; to allow the domain NAME, write the two lines \
                     [[allow]] and domain = \"NAME\" to {} and reload the service",
                    shown(&self.policy.file)
                );
            }
            1 => tracing::info!("there is no rule; 1 domain may be woken, as its own metadata allow it"),
            domains => {
                tracing::info!(
                    "there is no rule; {domains} domains may be woken, as their own metadata allow it"
                );
            }
        }
    }
}
