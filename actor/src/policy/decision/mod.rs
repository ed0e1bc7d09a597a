//! The decision: whether a wake is done, and what is done for it. Pure functions of what is known.
//!
//! It is made in two steps, because the state of a domain is asked for only where it matters:
//! [`admit`] says which domain is meant and whether it may be woken, [`act`] what its state calls for.

use core::time::Duration;

use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::{MacAddr, Password};

use crate::model::{Domain, Outcome, Pause, State, Trigger};
use crate::policy::rules::{METADATA, Paused, Rule, Rules};

/// Who asks, and what they bring.
#[derive(Debug, Clone, Copy)]
pub enum Requester<'a> {
    /// A packet that came like this, with this password.
    Packet(&'a PacketDetails, Presented<'a>),
    /// A caller.
    Call,
}

/// The password that came with a packet.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// There may be one: the announcer is asked for it where a rule asks.
    NotFetched,
    /// This one, or none.
    Fetched(Option<&'a Password>),
}

/// Which domains have a MAC address.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// None.
    Nothing,
    /// This one.
    One(&'a Domain),
    /// More than one: by name.
    Several(Vec<&'a Domain>),
}
/// Whether a domain may be woken, and which.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// No domain has this MAC address.
    Unknown,
    /// These domains have it, and no rule tells which of them is meant.
    Ambiguous(Vec<&'a Domain>),
    /// No rule allows the domain.
    NotAllowed(&'a Domain),
    /// This rule would allow the domain, were the packet from elsewhere.
    ConditionsNotMet(&'a Domain, &'a Rule),
    /// It depends on the password, which is to be fetched.
    FetchPassword(&'a Domain, &'a Rule),
    /// This rule would allow the domain, were the password right.
    BadPassword(&'a Domain, &'a Rule),
    /// The domain may be woken.
    Admitted(&'a Domain, Grant),
}

/// What allows a wake, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The rule, as it is written in the configuration.
    pub rule: Option<String>,
    /// What is done with a domain that somebody has paused.
    pub paused: Paused,
}

/// Which domain is meant, and whether it may be woken.
pub fn admit<'a>(
    found: Found<'a>,
    rules: &'a Rules,
    mac: MacAddr,
    requester: Requester<'_>,
) -> Admission<'a> {
    let domain = match found {
        Found::Nothing => return Admission::Unknown,
        Found::One(domain) => domain,
        Found::Several(domains) => {
            let mut named = domains.iter().filter(|domain| rules.any_names(domain));
            match (named.next(), named.next()) {
                (Some(domain), None) => domain,
                _ => return Admission::Ambiguous(domains),
            }
        }
    };
    match requester {
        Requester::Call => {
            let grant = Grant { rule: rules.allowed_by(domain, mac), paused: Paused::Resume };
            Admission::Admitted(domain, grant)
        }
        Requester::Packet(details, password) => judge(domain, rules, mac, details, password),
    }
}

/// The first rule that takes the packet as it is decides; else what is nearest to being allowed.
fn judge<'a>(
    domain: &'a Domain,
    rules: &'a Rules,
    mac: MacAddr,
    details: &PacketDetails,
    password: Presented<'_>,
) -> Admission<'a> {
    let mut refusal = Admission::NotAllowed(domain);
    for rule in rules.matching(domain, mac) {
        if !rule.accepts(details) {
            if let Admission::NotAllowed(_) = refusal {
                refusal = Admission::ConditionsNotMet(domain, rule);
            }
            continue;
        }
        let right = rule.secure_on().is_none_or(|expected| match password {
            Presented::Fetched(Some(password)) => expected.accepts(password),
            Presented::Fetched(None) | Presented::NotFetched => false,
        });
        if right {
            let grant = Grant { rule: Some(rule.to_string()), paused: rule.paused() };
            return Admission::Admitted(domain, grant);
        }
        if details.secure_on && matches!(password, Presented::NotFetched) {
            return Admission::FetchPassword(domain, rule);
        }
        if !matches!(refusal, Admission::BadPassword(..)) {
            refusal = Admission::BadPassword(domain, rule);
        }
    }
    if rules.allowed_by_metadata(domain) {
        let grant = Grant { rule: Some(METADATA.to_owned()), paused: Paused::Resume };
        return Admission::Admitted(domain, grant);
    }
    refusal
}

/// Whether a wake has waited for too long.
#[must_use]
pub fn has_expired(age: Duration, hold: Duration) -> bool {
    age > hold
}

/// Whether a packet comes too soon after the last wake that succeeded. A call never does.
#[must_use]
pub fn cools_down(trigger: Trigger, since_success: Option<Duration>, cool_down: Duration) -> bool {
    trigger == Trigger::Packet && since_success.is_some_and(|since| since < cool_down)
}

/// What is done for a wake.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the domain.
    Start,
    /// Resume the domain.
    Resume,
    /// Wake the guest up, which has suspended itself.
    WakeUp,
    /// Wait for it to be off, then decide again.
    AwaitOff,
    /// Wait for whatever has paused it for a while, then decide again.
    AwaitPause,
    /// Nothing: it has this outcome already.
    Nothing(Outcome, String),
}

/// What the state of a domain calls for.
pub fn act(state: State, paused: Paused) -> Action {
    let failed = || Action::Nothing(Outcome::Failed, format!("it is {state}: a wake does not change that"));
    match state {
        State::ShutOff | State::Saved => Action::Start,
        State::MigratedAway => {
            let reason = "it runs on the host that it has migrated to; wake it there".to_owned();
            Action::Nothing(Outcome::MigratedAway, reason)
        }
        State::Running => Action::Nothing(Outcome::AlreadyRunning, "it runs".to_owned()),
        State::Suspended => Action::WakeUp,
        State::ShuttingDown => Action::AwaitOff,
        State::Crashed | State::Unknown => failed(),
        State::Paused(pause) => match pause {
            // libvirt tells no reason where it has forgotten it: nothing speaks against resuming then.
            Pause::User | Pause::FromSnapshot | Pause::Restored | Pause::Unknown => match paused {
                Paused::Resume => Action::Resume,
                Paused::Leave => {
                    let reason = format!("it is {state}, and its rule says paused = \"leave\"");
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
            | Pause::ApiError => failed(),
        },
    }
}

/// Whether a domain that was just started is to be resumed: it was saved while it was paused.
///
/// Perhaps it is not seen yet that this is no migration.
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
