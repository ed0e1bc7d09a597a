//! The decision: whether a wake is done, and what is done for it. Pure functions of what is known.
//!
//! It is made in two steps, because the state of a domain is asked for only where it matters:
//! [`admit`] says which domain is meant and whether it may be woken, [`act`] what its state calls for.

use core::fmt;

use wakevirt_protocol::MacAddr;

use crate::hypervisor::{Domain, State};
use crate::index::Found;
use crate::rules::{Rule, Rules};

/// Who asks for a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A packet, which is anonymous: the rules decide.
    Packet,
    /// A caller on the bus, who was authorised: the rules are not for them.
    Call,
}

impl Trigger {
    /// The trigger as it is told on the bus and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Call => "call",
        }
    }
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
    /// The domain may be woken.
    Admitted(&'a Domain, Option<&'a Rule>),
}

/// Which domain is meant, and whether it may be woken.
pub fn admit<'a>(found: Found<'a>, rules: &'a Rules, mac: MacAddr, trigger: Trigger) -> Admission<'a> {
    let domain = match found {
        Found::Nothing => return Admission::Unknown,
        Found::One(domain) => domain,
        Found::Several(domains) => {
            let mut named = domains.iter().filter(|domain| rules.name(domain));
            match (named.next(), named.next()) {
                (Some(domain), None) => domain,
                _ => return Admission::Ambiguous(domains),
            }
        }
    };
    match (rules.allowing(domain, mac), trigger) {
        (None, Trigger::Packet) => Admission::NotAllowed(domain),
        (rule, _) => Admission::Admitted(domain, rule),
    }
}

/// What is done for a wake.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the domain.
    Start,
    /// Nothing: it has this outcome already.
    Nothing(Outcome, String),
}

/// What the state of a domain calls for.
pub fn act(state: State) -> Action {
    match state {
        State::ShutOff => Action::Start,
        State::Running => Action::Nothing(Outcome::AlreadyRunning, "it runs".to_owned()),
        other => Action::Nothing(Outcome::Failed, format!("it is {other}: a wake does not change that")),
    }
}

/// How a wake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The domain was off, and runs now.
    Started,
    /// It ran already.
    AlreadyRunning,
    /// No rule allows it.
    NotAllowed,
    /// More than one domain has the MAC address.
    Ambiguous,
    /// It could not be done.
    Failed,
}

impl Outcome {
    /// The outcome as it is told on the bus and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::AlreadyRunning => "already-running",
            Self::NotAllowed => "not-allowed",
            Self::Ambiguous => "ambiguous",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Deserialize;
    use uuid::Uuid;

    use super::*;
    use crate::hypervisor::Pause;

    const MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);

    fn domain(name: &str) -> Domain {
        let uuid = Uuid::from_u128(name.len().try_into().unwrap());
        Domain { uuid, name: name.to_owned(), macs: BTreeSet::from([MAC]), state: State::ShutOff }
    }

    fn rules(rules: &[&str]) -> Rules {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            allow: Vec<Rule>,
        }
        let text: String = rules.iter().map(|rule| format!("[[allow]]\n{rule}\n")).collect();
        Rules::new(toml::from_str::<File>(&text).unwrap().allow)
    }

    /// The admission in short: the domain that is admitted, by which rule; or what it is instead.
    fn short(names: &[&str], allow: &[&str], trigger: Trigger) -> String {
        let domains: Vec<Domain> = names.iter().map(|name| domain(name)).collect();
        let rules = rules(allow);
        let found = match domains.as_slice() {
            [] => Found::Nothing,
            [one] => Found::One(one),
            several => Found::Several(several.iter().collect()),
        };
        match admit(found, &rules, MAC, trigger) {
            Admission::Unknown => "unknown".to_owned(),
            Admission::Ambiguous(domains) => format!("ambiguous: {}", domains.len()),
            Admission::NotAllowed(domain) => format!("not allowed: {}", domain.name),
            Admission::Admitted(domain, None) => domain.name.clone(),
            Admission::Admitted(domain, Some(rule)) => format!("{}: {rule}", domain.name),
        }
    }

    #[test]
    fn admits_what_the_rules_allow() {
        use Trigger::{Call, Packet};
        let win = "domain = \"win\"";
        let linux = "domain = \"linux\"";
        let mac = "mac = \"52:54:*\"";
        for (domains, allow, trigger, admission) in [
            (&[] as &[_], &[] as &[_], Packet, "unknown"),
            (&[], &[win], Call, "unknown"),
            (&["win"], &[], Packet, "not allowed: win"),
            (&["win"], &[linux], Packet, "not allowed: win"),
            (&["win"], &[win], Packet, "win: domain = \"win\""),
            (&["win"], &[linux, mac], Packet, "win: mac = \"52:54:*\""),
            // The allowlist is for packets.
            (&["win"], &[], Call, "win"),
            (&["win"], &[win], Call, "win: domain = \"win\""),
            // One MAC in two domains starts neither, unless a rule names one of them.
            (&["win", "linux"], &[], Packet, "ambiguous: 2"),
            (&["win", "linux"], &[], Call, "ambiguous: 2"),
            (&["win", "linux"], &[mac], Packet, "ambiguous: 2"),
            (&["win", "linux"], &[win, linux], Packet, "ambiguous: 2"),
            (&["win", "linux"], &["domain = \"*\""], Packet, "ambiguous: 2"),
            (&["win", "linux"], &[linux], Packet, "linux: domain = \"linux\""),
            (&["win", "linux"], &[linux], Call, "linux: domain = \"linux\""),
            (&["win", "linux"], &[mac, linux], Packet, "linux: mac = \"52:54:*\""),
        ] {
            assert_eq!(short(domains, allow, trigger), admission, "{domains:?} {allow:?} {trigger:?}");
        }
    }

    #[test]
    fn acts_by_the_state() {
        use State::*;
        for (state, action) in [
            (ShutOff, Ok(())),
            (Running, Err((Outcome::AlreadyRunning, "it runs"))),
            (MigratedAway, Err((Outcome::Failed, "shut off (migrated)"))),
            (Paused(Pause::User), Err((Outcome::Failed, "paused (user)"))),
            (Paused(Pause::IoError), Err((Outcome::Failed, "paused (I/O error)"))),
            (ShuttingDown, Err((Outcome::Failed, "in shutdown"))),
            (Crashed, Err((Outcome::Failed, "crashed"))),
            (Suspended, Err((Outcome::Failed, "pmsuspended"))),
            (Unknown, Err((Outcome::Failed, "unknown"))),
        ] {
            match (act(state), action) {
                (Action::Start, Ok(())) => {}
                (Action::Nothing(outcome, reason), Err((expected, words))) => {
                    assert_eq!(outcome, expected, "{state}");
                    assert!(reason.contains(words), "{reason}");
                }
                (other, _) => panic!("{state}: {other:?}"),
            }
        }
    }
}
