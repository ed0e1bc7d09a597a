//! Replies to the queries `ListDomains` and `Explain`.

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_service::config::HumanDuration;
use wakevirt_service::logs::quoted;

use super::Engine;
use super::packets::ambiguous;
use crate::engine::report::truncated_name;
use crate::engine::request::ListedDomain;
use crate::model::{Domain, Id, State, Trigger};
use crate::policy::decision::{self, Action, Admission, Grant, Presented, act};
use crate::policy::rules::{METADATA, Paused, Rule};

/// The maximum number of domains in one reply.
pub(super) const MAX_LISTED: usize = 256;
/// The maximum number of MAC addresses of a listed domain.
const MAX_LISTED_MACS: usize = 256;

impl Engine {
    /// The first domains after this one, ordered by ID. If no domain is known, the unavailable hypervisors.
    pub(super) fn list(&self, after: Option<&Id>) -> Result<Vec<ListedDomain>, String> {
        if let (0, Some(unavailable)) = (self.index.domains().len(), self.hypervisors.unavailable()) {
            return Err(unavailable);
        }
        let listed = self.index.after(after).take(MAX_LISTED).map(|entry| ListedDomain {
            id: entry.domain.id.clone(),
            name: truncated_name(&entry.domain.name),
            state: self.known_state(&entry.domain),
            rule: entry.macs.iter().find_map(|mac| self.policy.rules.allowed_by(&entry.domain, *mac)),
            last_wake: self.history.last_success_time(&entry.domain.id),
            macs: entry.macs.iter().take(MAX_LISTED_MACS).copied().collect(),
        });
        Ok(listed.collect())
    }

    /// The state of the domain, which is unknown while its hypervisor is unavailable.
    fn known_state(&self, domain: &Domain) -> State {
        match self.hypervisors.get(&domain.id.connection) {
            Some(_) => domain.state,
            None => State::Unknown,
        }
    }

    /// Whether such a packet would wake a domain, and the reason.
    pub(super) fn explain(&self, mac: MacAddr, details: &PacketDetails) -> (bool, String) {
        let (domain, allowed_by, paused) = match self.admit_packet(mac, details, Presented::NotFetched) {
            Admission::Unknown => return (false, self.explain_unknown(mac)),
            Admission::Ambiguous(domains) => return (false, ambiguous(&domains)),
            Admission::NotAllowed(domain) => {
                return (false, format!("no rule allows {}", quoted(&domain.name)));
            }
            Admission::ConditionsNotMet(domain, rule) => {
                let (name, packets) = (quoted(&domain.name), rule.mismatch(details));
                return (
                    false,
                    format!("{name} is allowed by rule {rule}, which does not match packets {packets}"),
                );
            }
            Admission::BadPassword(domain, rule) => {
                let name = quoted(&domain.name);
                return (false, format!("{name} requires the SecureOn password of rule {rule}"));
            }
            Admission::FetchPassword(domain, rule) => {
                (domain, self.explain_password(mac, details, rule), rule.paused())
            }
            Admission::Admitted(domain, grant) => {
                (domain, describe_rule(&grant.rule.unwrap_or_default()), grant.paused)
            }
        };
        let (would_wake, action) = self.explain_action(domain, paused);
        (would_wake, format!("{} is allowed by {allowed_by}; {action}", quoted(&domain.name)))
    }

    /// The rule that requires a password, and the one that applies if the password is wrong.
    fn explain_password(&self, mac: MacAddr, details: &PacketDetails, rule: &Rule) -> String {
        let otherwise = match self.admit_packet(mac, details, Presented::Fetched(None)) {
            Admission::Admitted(_, Grant { rule: Some(other), .. }) => {
                format!(", otherwise by {}", describe_rule(&other))
            }
            _ => String::new(),
        };
        format!("rule {rule} if the SecureOn password is correct{otherwise}")
    }

    fn explain_unknown(&self, mac: MacAddr) -> String {
        let hold = HumanDuration::from(self.policy.times.hold);
        match self.hypervisors.unavailable() {
            None => format!(
                "no known domain has {mac}; {} shows the addresses of a domain, and an [[alias]] can add one",
                self.hypervisors.commands(|it| &it.list_addresses)
            ),
            Some(unavailable) => format!(
                "no known domain has {mac}, and {unavailable} is unavailable: a packet would be held for up to {hold}, \
                 until its domains are known"
            ),
        }
    }

    /// Whether a packet that is allowed would wake the domain now, and what it would do.
    fn explain_action(&self, domain: &Domain, paused: Paused) -> (bool, String) {
        let uri = &domain.id.connection;
        let Some(hypervisor) = self.hypervisors.get(uri) else {
            let hold = HumanDuration::from(self.policy.times.hold);
            let reason = format!("{uri} is unavailable: the wake would be held for up to {hold}");
            return (true, reason);
        };
        let since = self.history.last_success(&domain.id).map(|at| at.elapsed());
        let (would_wake, action) = match act(domain.state, paused) {
            Action::Nothing(_, reason) => return (false, reason),
            _ if decision::is_cooling_down(Trigger::Packet, since, self.policy.times.cool_down) => {
                return (false, "the last wake succeeded within the cool-down".to_owned());
            }
            Action::Start => (true, "it would be started".to_owned()),
            Action::Resume => (true, "it would be resumed".to_owned()),
            Action::WakeUp => (true, "it would be woken up".to_owned()),
            Action::AwaitOff => (true, "it would be started after it has shut down".to_owned()),
            Action::AwaitPause => {
                (true, format!("it is {}, and its state would be queried again", domain.state))
            }
        };
        match hypervisor.queued() {
            0 => (would_wake, action),
            queued => {
                let reason =
                    format!("{action}, after {queued} other wakes that wait for a connection to {uri}");
                (would_wake, reason)
            }
        }
    }
}

/// Describes the rule of a grant, for a sentence.
fn describe_rule(rule: &str) -> String {
    if rule == METADATA { rule.to_owned() } else { format!("rule {rule}") }
}
