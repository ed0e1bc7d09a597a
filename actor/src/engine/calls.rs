//! Requests from the D-Bus interface and the daemon.

use wakevirt_protocol::MacAddr;

use super::packets::ambiguous;
use super::updates::note_name;
use super::{Engine, Reply};
use crate::engine::request::{Request, WakeReply};
use crate::model::{Caller, Outcome, Subject, WakeTarget};
use crate::policy::Policy;
use crate::policy::decision::{self, Admission, admit};

impl Engine {
    /// Handles a request, and replies to it. If the caller has stopped waiting, the reply is dropped.
    pub(super) fn handle_request(&mut self, request: Request) {
        match request {
            Request::Wake { target, caller, reply } => self.handle_call(&target, caller, reply),
            Request::Explain { mac, details, reply } => drop(reply.send(self.explain(mac, &details))),
            Request::ExplainRules { mac, details, reply } => {
                drop(reply.send(self.explain_rules(mac, &details)));
            }
            Request::List { after, reply } => drop(reply.send(self.list(after.as_ref()))),
            Request::History { before, limit, reply } => {
                drop(reply.send(self.history.decisions(before, limit)));
            }
            Request::Counts { reply } => drop(reply.send(self.history.counts())),
            Request::SaveState { reply } => {
                self.unsaved = true;
                self.save();
                let _ = reply.send(());
            }
            Request::SetPolicy(policy) => self.set_policy(policy),
        }
    }

    fn set_policy(&mut self, policy: Policy) {
        if policy.aliases != self.policy.aliases {
            self.index.set_aliases(policy.aliases.clone());
            self.publish_soon();
        }
        self.policy = policy;
        self.index.domains().for_each(|domain| note_name(&mut self.policy.rules, domain));
        self.rules_checked = false;
        self.check_rules();
        self.log_limiter.reset();
    }

    /// Wakes the domain that an authorised caller has requested.
    fn handle_call(&mut self, target: &WakeTarget, caller: Caller, reply: Reply) {
        let (mac, found) = match target {
            WakeTarget::Mac(mac) => (Some(*mac), self.index.find(*mac)),
            WakeTarget::Domain(name) => (None, self.index.find_domain(name)),
        };
        // The rules apply only to packets. For a call, they only select one of several domains.
        let no_mac = MacAddr::new([0; 6]);
        match admit(found, &self.policy.rules, mac.unwrap_or(no_mac), decision::Requester::Call) {
            Admission::Ambiguous(domains) => {
                let reason = ambiguous(&domains);
                let subject = Subject::new(mac, None, None, None).called_by(caller);
                self.report(subject, Outcome::Ambiguous, reason, vec![reply]);
            }
            Admission::Admitted(domain, grant) => {
                let id = domain.id.clone();
                let rule = mac.and(grant.rule.clone());
                let subject = Subject::new(mac, Some(domain), rule, None).called_by(caller);
                self.wake(id, subject, grant.handling, vec![reply]);
            }
            _ => {
                let unavailable = self.hypervisors.unavailable();
                let _ = reply
                    .send(unavailable.map_or(WakeReply::UnknownDomain, WakeReply::HypervisorUnavailable));
            }
        }
    }
}
