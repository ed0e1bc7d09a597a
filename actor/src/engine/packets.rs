//! Decisions about packets.

use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::{MacAddr, Password};
use wakevirt_service::logs::quoted;

use super::Engine;
use crate::model::{Domain, Outcome, Packet, Subject};
use crate::policy::decision::{Admission, Grant, Presented, Requester, admit, unmet_packets};

/// The maximum number of domains that a message about an ambiguous address names.
const MAX_NAMED: usize = 3;

impl Engine {
    /// Decides whether a packet wakes a domain. `password` is `None` if it was not fetched.
    pub(super) fn handle_packet(&mut self, packet: Packet, password: Option<Result<Password, String>>) {
        let presented = match &password {
            None => Presented::NotFetched,
            Some(password) => Presented::Fetched(password.as_ref().ok()),
        };
        let mac = packet.mac;
        let subject = |domain, rule| Subject::new(Some(mac), domain, rule, Some(&packet));
        let (subject, outcome, reason) = match self.admit_packet(mac, &packet.details, presented) {
            Admission::Unknown => return self.hold_or_count(packet),
            Admission::FetchPassword(..) => return self.fetch_password(packet),
            Admission::Admitted(domain, Grant { rule, handling }) => {
                let (id, subject) = (domain.id.clone(), subject(Some(domain), rule));
                return self.wake(id, subject, handling, Vec::new());
            }
            Admission::Ambiguous(domains) => (subject(None, None), Outcome::Ambiguous, ambiguous(&domains)),
            Admission::NotAllowed(domain) => {
                (subject(Some(domain), None), Outcome::NotAllowed, "no rule allows it".to_owned())
            }
            Admission::ConditionsNotMet(domain, rule, verdict) => {
                let reason = format!("the rule does not match packets {}", unmet_packets(verdict));
                (subject(Some(domain), Some(rule.to_string())), Outcome::NotAllowed, reason)
            }
            Admission::BadPassword(domain, rule) => {
                let subject = subject(Some(domain), Some(rule.to_string()));
                (subject, Outcome::BadPassword, bad_password(password.as_ref()))
            }
        };
        self.report(subject, outcome, reason, Vec::new());
    }

    /// Decides whether a packet with these details is allowed to wake a domain.
    pub(super) fn admit_packet(
        &self,
        mac: MacAddr,
        details: &PacketDetails,
        password: Presented<'_>,
    ) -> Admission<'_> {
        let requester = Requester::Packet(details, password);
        admit(self.index.find(mac), &self.policy.rules, mac, requester)
    }
}

/// The reason for denying a packet because of its password.
fn bad_password(fetched: Option<&Result<Password, String>>) -> String {
    match fetched {
        Some(Err(error)) => format!("cannot fetch its SecureOn password: {error}"),
        Some(Ok(_)) => "its SecureOn password is wrong".to_owned(),
        None => "the rule requires a SecureOn password, and the packet has none".to_owned(),
    }
}

/// The reason for waking none of these domains. It names only the first few: there can be thousands.
pub(super) fn ambiguous(domains: &[&Domain]) -> String {
    let name = |domain: &&Domain| format!("{} on {}", quoted(&domain.name), domain.id.connection);
    let names: Vec<String> = domains.iter().take(MAX_NAMED).map(name).collect();
    let more = match domains.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.join(" and ");
    format!("{names}{more} match; give each its own MAC address, or name one of them in a rule")
}
