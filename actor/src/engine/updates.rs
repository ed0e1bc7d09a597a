//! Updates from the hypervisors.

use wakevirt_service::logs::{kind, quoted};

use super::Engine;
use crate::hypervisor::Update;
use crate::model::Domain;
use crate::policy::rules::Rules;

impl Engine {
    pub(super) fn handle_update(&mut self, update: Update) {
        match update {
            Update::Up(uri, hypervisor, domains) => {
                self.hypervisors.set_available(&uri, hypervisor);
                domains.iter().for_each(|domain| note_name(&mut self.policy.rules, domain));
                self.index.replace(&uri, domains);
                self.history.retain_domains(&uri, |id| self.index.get(id).is_some());
                self.publish();
                self.check_rules();
                self.start_held_wakes(&uri);
                self.autostart(&uri);
                self.decide_held_packets();
                self.handle_early_requests_if_settled();
            }
            Update::Changing(id) => self.index.mark_changed(&id),
            // Saved at once: if this process exits now, the next one does not start the domain again.
            Update::Running(id) => self.unsaved |= self.wakes.set_running(&id),
            Update::Domain(domain) => {
                note_name(&mut self.policy.rules, &domain);
                if self.index.put(domain) {
                    self.publish_soon();
                }
            }
            Update::Gone(id) => {
                self.history.forget_domain(&id);
                if self.index.remove(&id) {
                    self.publish_soon();
                }
            }
            Update::Down(uri) => {
                self.hypervisors.set_unavailable(&uri);
                self.publish();
                self.handle_early_requests_if_settled();
            }
            Update::Failed(uri, reason) => {
                self.hypervisors.set_error(&uri, &reason);
                self.publish_soon();
            }
        }
    }
}

/// Compares the rules with a domain's name: a pattern that is exactly this name is no longer used as a glob.
pub(super) fn note_name(rules: &mut Rules, domain: &Domain) {
    for rule in rules.note_name(domain) {
        tracing::info!(
            MESSAGE_ID = kind::RULE_IS_NAME,
            WAKEVIRT_DOMAIN = domain.name,
            WAKEVIRT_UUID = %domain.id.uuid,
            WAKEVIRT_RULE = %rule,
            "rule {rule} matches only the domain {}: its pattern is exactly this name, and is no longer used as a glob",
            quoted(&domain.name)
        );
    }
}
