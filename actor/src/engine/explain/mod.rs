//! Replies to `Explain`: what the actor would do with a packet. The same functions decide on real packets.

mod lists;
mod room;
mod sentence;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::explain::{PendingWake, PlannedAction};
use wakevirt_service::config::HumanDuration;
use wakevirt_service::logs::quoted;

use super::Engine;
use super::packets::ambiguous;
use crate::model::{Domain, Outcome, Trigger};
use crate::policy::decision::{self, Action, Admission, Grant, Presented, select_action, unmet_packets};
use crate::policy::rules::{METADATA, Paused, Rule};

/// The outcome of a packet for a MAC address that no domain has.
const NO_SUCH_DOMAIN: &str = "no-such-domain";

/// What the actor would do with a packet.
#[derive(Debug)]
pub(super) struct Forecast {
    /// Whether it would wake a domain, now or after being held.
    pub(super) would_wake: bool,
    /// The reason.
    pub(super) reason: String,
    /// The outcome, if it is known before the wake.
    pub(super) outcome: Option<&'static str>,
    /// What the actor would do.
    pub(super) action: PlannedAction,
}

impl Forecast {
    fn wakes(action: PlannedAction, reason: String) -> Self {
        Self { would_wake: true, reason, outcome: None, action }
    }

    const fn ends(outcome: Outcome, reason: String) -> Self {
        Self { would_wake: false, reason, outcome: Some(outcome.as_str()), action: PlannedAction::Nothing }
    }
}

impl Engine {
    /// Whether a packet with this address and these details would wake a domain, and the reason.
    pub(super) fn explain(&self, mac: MacAddr, details: &PacketDetails) -> (bool, String) {
        let admission = self.admit_packet(mac, details, Presented::NotFetched);
        let forecast = self.forecast(mac, details, &admission);
        (forecast.would_wake, forecast.reason)
    }

    /// What the actor would do with a packet with this address and these details. `admission` is the decision on the
    /// packet with [`Presented::NotFetched`].
    fn forecast(&self, mac: MacAddr, details: &PacketDetails, admission: &Admission<'_>) -> Forecast {
        let (domain, allowed_by, handling) = match admission {
            Admission::Unknown => return self.forecast_unknown(mac),
            Admission::Ambiguous(domains) => return Forecast::ends(Outcome::Ambiguous, ambiguous(domains)),
            Admission::NotAllowed(domain) => {
                let reason = format!("no rule allows {}", quoted(&domain.name));
                return Forecast::ends(Outcome::NotAllowed, reason);
            }
            Admission::ConditionsNotMet(domain, rule, verdict) => {
                let (name, packets) = (quoted(&domain.name), unmet_packets(*verdict));
                let reason = format!("rule {rule} is for {name}, but does not match packets {packets}");
                return Forecast::ends(Outcome::NotAllowed, reason);
            }
            Admission::BadPassword(domain, rule) => {
                let name = quoted(&domain.name);
                let reason = format!("{name} requires the SecureOn password of rule {rule}");
                return Forecast::ends(Outcome::BadPassword, reason);
            }
            Admission::FetchPassword(domain, rule) => {
                (domain, self.explain_password(mac, details, rule), rule.handling())
            }
            Admission::Admitted(domain, grant) => {
                (domain, describe_rule(grant.rule.as_deref().unwrap_or_default()), grant.handling)
            }
        };
        let forecast = self.forecast_action(domain, handling.paused);
        let reason = format!("{} is allowed by {allowed_by}; {}", quoted(&domain.name), forecast.reason);
        Forecast { reason, ..forecast }
    }

    /// Describes the rule that requires a password, and the rule that applies if the password is wrong.
    fn explain_password(&self, mac: MacAddr, details: &PacketDetails, rule: &Rule) -> String {
        let otherwise = match self.admit_packet(mac, details, Presented::Fetched(None)) {
            Admission::Admitted(_, Grant { rule: Some(other), .. }) => {
                format!(", otherwise by {}", describe_rule(&other))
            }
            _ => String::new(),
        };
        format!("rule {rule} if the SecureOn password is correct{otherwise}")
    }

    fn forecast_unknown(&self, mac: MacAddr) -> Forecast {
        let hold = HumanDuration::from(self.policy.timing.hold);
        let (reason, outcome, action) = match self.hypervisors.unavailable() {
            None => (
                format!(
                    "no known domain has {mac}; {} shows the addresses of a domain, and an [[alias]] can add one",
                    self.hypervisors.commands(|it| &it.list_addresses)
                ),
                Some(NO_SUCH_DOMAIN),
                PlannedAction::Nothing,
            ),
            Some(unavailable) => (
                format!(
                    "no known domain has {mac}; unavailable: {unavailable}; a packet would be held for up to {hold}, or until \
                     all domains are known"
                ),
                None,
                PlannedAction::Hold,
            ),
        };
        Forecast { would_wake: false, reason, outcome, action }
    }

    /// Whether an allowed packet would wake the domain now, and what the actor would do.
    fn forecast_action(&self, domain: &Domain, paused: Paused) -> Forecast {
        let uri = &domain.id.connection;
        if let Some(wake) = self.wakes.pending(&domain.id) {
            let wake = match wake {
                PendingWake::Running => {
                    let queued = self.hypervisors.get(uri).map_or(0, |hypervisor| hypervisor.queued());
                    with_queued("is in progress".to_owned(), queued, uri)
                }
                PendingWake::Held => format!("is held until {uri} is available"),
            };
            let reason = format!("a wake of the domain {wake}, and the packet would join that wake");
            return Forecast::wakes(PlannedAction::Join, reason);
        }
        let Some(hypervisor) = self.hypervisors.get(uri) else {
            let hold = HumanDuration::from(self.policy.timing.hold);
            let reason = format!("{uri} is unavailable: the wake would be held for up to {hold}");
            return Forecast::wakes(PlannedAction::Hold, reason);
        };
        let since = self.history.last_success(&domain.id).map(|at| at.elapsed());
        let (action, reason) = match select_action(domain.state, paused) {
            Action::Nothing(outcome, reason) => return Forecast::ends(outcome, reason),
            Action::AwaitOff => {
                (PlannedAction::Wait, "it would be started after it has shut down".to_owned())
            }
            Action::AwaitPause => {
                (PlannedAction::Wait, format!("it is {}, and its state would be queried again", domain.state))
            }
            // As in an attempt, the cool-down matters only when the domain is about to be woken.
            _ if decision::is_cooling_down(Trigger::Packet, since, self.policy.timing.cool_down) => {
                let reason = "the cool-down after the last successful wake has not ended".to_owned();
                return Forecast::ends(Outcome::CoolingDown, reason);
            }
            Action::Start => (PlannedAction::Start, "it would be started".to_owned()),
            Action::Resume => (PlannedAction::Resume, "it would be resumed".to_owned()),
            Action::WakeUp => (PlannedAction::WakeUp, "it would be woken up".to_owned()),
        };
        let reason = with_queued(reason, hypervisor.queued(), uri);
        Forecast::wakes(action, reason)
    }
}

/// Adds the number of queued wakes, if there are any.
fn with_queued(reason: String, queued: usize, uri: &str) -> String {
    match queued {
        0 => reason,
        _ => format!("{reason} (other wakes queued for a connection to {uri}: {queued})"),
    }
}

/// Describes the rule of a grant, for use in a sentence.
fn describe_rule(rule: &str) -> String {
    if rule == METADATA { format!("the {METADATA}") } else { format!("rule {rule}") }
}
