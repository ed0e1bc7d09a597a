//! Decisions about wakes: pure functions of their arguments.
//!
//! There are two steps, because the state of a domain is queried only if it matters: [`admit`] selects the domain and
//! decides whether the wake is allowed, and [`select_action`] selects the action for the domain's state.

use core::time::Duration;

use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::explain::RuleVerdict;
use wakevirt_protocol::{MacAddr, Password};

use crate::model::{Domain, Outcome, Pause, State, Trigger};
use crate::policy::rules::{Handling, METADATA, Paused, Rule, Rules};

/// What requested the wake.
#[derive(Debug, Clone, Copy)]
pub enum Requester<'a> {
    /// A packet with these details and this password.
    Packet(&'a PacketDetails, Presented<'a>),
    /// An authorised caller.
    Call,
}

/// The password in a packet.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// Not fetched yet. If a rule requires a password, it must be fetched from the announcer.
    NotFetched,
    /// This password, or none.
    Fetched(Option<&'a Password>),
}

/// The domains with a MAC address, name or UUID.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// No domain.
    Nothing,
    /// One domain.
    One(&'a Domain),
    /// Several domains, sorted by name.
    Several(Vec<&'a Domain>),
}

/// The result of [`admit`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// No domain has this MAC address.
    Unknown,
    /// Several domains have this MAC address, and the rules do not name exactly one of them.
    Ambiguous(Vec<&'a Domain>),
    /// No rule allows the domain.
    NotAllowed(&'a Domain),
    /// This rule matches the domain, but the packet does not meet this condition of the rule.
    ConditionsNotMet(&'a Domain, &'a Rule, RuleVerdict),
    /// This rule requires a password, which must be fetched first.
    FetchPassword(&'a Domain, &'a Rule),
    /// This rule requires a different password.
    BadPassword(&'a Domain, &'a Rule),
    /// The wake is allowed.
    Admitted(&'a Domain, Grant),
}

/// The permission for a wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The rule that allows it, if there is one.
    pub rule: Option<String>,
    /// How paused and halted domains are handled.
    pub handling: Handling,
}

/// Selects the domain, and decides whether the wake is allowed.
pub fn admit<'a>(
    found: Found<'a>,
    rules: &'a Rules,
    mac: MacAddr,
    requester: Requester<'_>,
) -> Admission<'a> {
    let domain = match found {
        Found::Nothing => return Admission::Unknown,
        Found::One(domain) => domain,
        Found::Several(domains) => match rules.select(&domains) {
            Some(domain) => domain,
            None => return Admission::Ambiguous(domains),
        },
    };
    match requester {
        Requester::Call => {
            let grant = Grant { rule: rules.allowed_by(domain, mac), handling: Handling::default() };
            Admission::Admitted(domain, grant)
        }
        Requester::Packet(details, password) => admit_packet(domain, rules, mac, details, password),
    }
}

/// The first rule whose conditions are all met determines the decision. If there is none, the metadata can allow the
/// domain. Otherwise, the result names a rule whose password does not match or, if there is none, a rule with a
/// different unmet condition.
fn admit_packet<'a>(
    domain: &'a Domain,
    rules: &'a Rules,
    mac: MacAddr,
    details: &PacketDetails,
    password: Presented<'_>,
) -> Admission<'a> {
    let mut denial = Admission::NotAllowed(domain);
    for rule in rules.iter() {
        match evaluate(rule, domain, mac, details, password) {
            RuleVerdict::Allows => {
                let grant = Grant { rule: Some(rule.to_string()), handling: rule.handling() };
                return Admission::Admitted(domain, grant);
            }
            RuleVerdict::PasswordUnchecked => return Admission::FetchPassword(domain, rule),
            RuleVerdict::PasswordMissing | RuleVerdict::PasswordWrong
                if !matches!(denial, Admission::BadPassword(..)) =>
            {
                denial = Admission::BadPassword(domain, rule);
            }
            verdict if is_unmet_condition(verdict) && matches!(denial, Admission::NotAllowed(_)) => {
                denial = Admission::ConditionsNotMet(domain, rule, verdict);
            }
            // The rule is for other domains, or an earlier rule is the reason.
            _ => {}
        }
    }
    if rules.allowed_by_metadata(domain) {
        let grant = Grant { rule: Some(METADATA.to_owned()), handling: Handling::default() };
        return Admission::Admitted(domain, grant);
    }
    denial
}

/// Evaluates a rule against a packet for a MAC address of this domain.
#[must_use]
pub fn evaluate(
    rule: &Rule,
    domain: &Domain,
    mac: MacAddr,
    details: &PacketDetails,
    password: Presented<'_>,
) -> RuleVerdict {
    if let Some(verdict) = rule.mismatch(domain, mac).or_else(|| rule.unmet_condition(details)) {
        return verdict;
    }
    let is_correct = rule.secure_on().is_none_or(|expected| match password {
        Presented::Fetched(Some(password)) => expected.accepts(password),
        Presented::Fetched(None) | Presented::NotFetched => false,
    });
    match (is_correct, details.secure_on, password) {
        (true, ..) => RuleVerdict::Allows,
        (false, true, Presented::NotFetched) => RuleVerdict::PasswordUnchecked,
        (false, true, Presented::Fetched(_)) => RuleVerdict::PasswordWrong,
        (false, false, _) => RuleVerdict::PasswordMissing,
    }
}

/// Whether this verdict means that the rule matches the domain, but not the interface, VLAN or source of the packet.
const fn is_unmet_condition(verdict: RuleVerdict) -> bool {
    matches!(
        verdict,
        RuleVerdict::Interface
            | RuleVerdict::InterfaceUnknown
            | RuleVerdict::Vlan
            | RuleVerdict::VlanUnknown
            | RuleVerdict::Source
            | RuleVerdict::SourceUnknown
    )
}

/// Completes the sentence "does not match packets …" for an unmet condition.
#[must_use]
pub const fn unmet_packets(verdict: RuleVerdict) -> &'static str {
    match verdict {
        RuleVerdict::InterfaceUnknown => "from an unknown interface",
        RuleVerdict::Vlan => "in this VLAN",
        RuleVerdict::VlanUnknown => "with an unknown VLAN",
        RuleVerdict::Source => "from this source",
        RuleVerdict::SourceUnknown => "from an unknown source",
        _ => "from this interface",
    }
}

/// Whether a wake was held for too long.
#[must_use]
pub fn has_expired(age: Duration, hold: Duration) -> bool {
    age > hold
}

/// Whether the wake is within the cool-down after the last success. The cool-down applies only to packets.
#[must_use]
pub fn is_cooling_down(trigger: Trigger, since_success: Option<Duration>, cool_down: Duration) -> bool {
    trigger == Trigger::Packet && since_success.is_some_and(|since| since < cool_down)
}

/// The result of [`select_action`].
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the domain.
    Start,
    /// Resume the domain.
    Resume,
    /// Wake up the suspended guest.
    WakeUp,
    /// Wait until the domain is shut off, then decide again.
    AwaitOff,
    /// Wait for the operation that has paused the domain, then decide again.
    AwaitPause,
    /// Do nothing. The wake has this outcome, for this reason.
    Nothing(Outcome, String),
}

/// Selects the action for the state of a domain.
pub fn select_action(state: State, paused: Paused) -> Action {
    let failed = |reason: String| Action::Nothing(Outcome::Failed, reason);
    let unchangeable = || failed(format!("the domain is {state}; a wake cannot change that"));
    match state {
        State::ShutOff | State::Saved => Action::Start,
        State::MigratedAway => {
            let reason = "the domain has migrated to another host; wake it there".to_owned();
            Action::Nothing(Outcome::MigratedAway, reason)
        }
        State::Running => {
            Action::Nothing(Outcome::AlreadyRunning, "the domain is already running".to_owned())
        }
        State::Suspended => Action::WakeUp,
        State::ShuttingDown => Action::AwaitOff,
        State::Crashed => unchangeable(),
        State::Unknown => failed("the hypervisor does not report the state of the domain".to_owned()),
        State::Paused(pause) => match pause {
            // libvirt loses the reason when it restarts, and then reports none: resuming is safe.
            Pause::User | Pause::FromSnapshot | Pause::Restored | Pause::Unknown => match paused {
                Paused::Resume => Action::Resume,
                Paused::Leave => {
                    let reason = format!("the domain is {state}, and the rule contains paused = \"leave\"");
                    Action::Nothing(Outcome::NotAllowed, reason)
                }
            },
            Pause::StartingUp
            | Pause::Save
            | Pause::Dump
            | Pause::Snapshot
            | Pause::Migration
            | Pause::PostCopy => Action::AwaitPause,
            Pause::IoError
            | Pause::Watchdog
            | Pause::Crashed
            | Pause::ShuttingDown
            | Pause::PostCopyFailed
            | Pause::ApiError => unchangeable(),
        },
    }
}

/// Whether a domain must be resumed after its start, because it was saved while it was paused.
///
/// Right after the start, such a domain can still appear to be migrating.
#[must_use]
pub fn is_restored_paused(state: State) -> bool {
    matches!(
        state,
        State::Paused(
            Pause::User
                | Pause::FromSnapshot
                | Pause::Restored
                | Pause::Unknown
                | Pause::Migration
                | Pause::StartingUp
        )
    )
}

#[cfg(test)]
mod tests;
