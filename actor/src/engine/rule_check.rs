//! Warns about rules and names that do not match any domain, once all domains are known.

use wakevirt_service::logs::{kind, shown};

use super::Engine;
use crate::policy::rules::Metadata;

impl Engine {
    /// Warns about each rule that does not match any domain, about each name in `autostart` that no domain has, and
    /// if no packet can wake a domain. Runs once for each configuration, as soon as all domains are known.
    pub(super) fn check_rules(&mut self) {
        if self.rules_checked || self.hypervisors.is_any_unavailable() {
            return;
        }
        self.rules_checked = true;
        let rules = &self.policy.rules;
        for rule in rules.iter().filter(|rule| rule.is_for_domains()) {
            if !self.index.domains().any(|domain| rule.names(domain)) {
                let list = self.hypervisors.commands(|it| &it.list_domains);
                tracing::warn!(
                    MESSAGE_ID = kind::RULE_MATCHES_NOTHING,
                    WAKEVIRT_RULE = %rule,
                    "rule {rule} does not match any domain; {list} lists the domains"
                );
            }
        }
        self.check_autostart();
        if rules.is_empty() {
            self.log_metadata_permissions();
        }
    }

    /// Logs how many domains packets can wake because of metadata. Called if there is no rule.
    fn log_metadata_permissions(&self) {
        let rules = &self.policy.rules;
        match self.index.domains().filter(|domain| rules.allowed_by_metadata(domain)).count() {
            0 => {
                let metadata = if *rules.metadata() != Metadata::Ignored {
                    ", and no domain's metadata allows it"
                } else {
                    ""
                };
                tracing::warn!(
                    MESSAGE_ID = kind::NOTHING_ALLOWED,
                    "no packet can wake a domain: no rule is configured{metadata}; to allow wakes of a domain, add the two lines \
                     [[allow]] and domain = \"NAME\" to {} and reload the service",
                    shown(&self.policy.file)
                );
            }
            1 => {
                tracing::info!(
                    MESSAGE_ID = kind::METADATA_ALLOWS,
                    "no rule is configured; packets can wake 1 domain, whose metadata allows it"
                );
            }
            domains => {
                tracing::info!(
                    MESSAGE_ID = kind::METADATA_ALLOWS,
                    "no rule is configured; packets can wake {domains} domains, whose metadata allows it"
                );
            }
        }
    }
}
