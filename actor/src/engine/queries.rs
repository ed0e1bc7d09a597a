//! What the actor remembers and answers: decisions that were made, counts, lists, explanations.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_service::clock;
use wakevirt_service::config::HumanDuration;
use wakevirt_service::logs::quoted;

use super::log_limiter::{LineKind, Permit};
use super::{Engine, Reply, ambiguous};
use crate::engine::report::{Decision, told_name};
use crate::engine::request::{Counts, Listed, WakeReply};
use crate::model::{Domain, Id, Outcome, State, Subject, Trigger};
use crate::policy::decision::{self, Action, Admission, Grant, Presented, act, admit};
use crate::policy::rules::Paused;

/// Decisions that are remembered.
const REMEMBERED: usize = 1000;
/// How much memory they may take, in bytes.
const REMEMBERED_BYTES: usize = 1024 * 1024;
/// Domains that are listed at once. Who asks for more asks again.
pub(super) const LISTED: usize = 256;
/// Addresses of a domain that are listed.
const LISTED_MACS: usize = 256;

/// What is remembered of decisions.
#[derive(Default)]
pub(super) struct Records {
    counts: Counts,
    /// The newest first; each is numbered, from 1 on.
    history: VecDeque<(u64, Arc<Decision>)>,
    decisions: u64,
    /// How much memory the history takes.
    bytes: usize,
    last_wakes: HashMap<Id, LastWake>,
}

/// When a wake last succeeded: by the clock on the wall, and by one that nobody sets.
#[derive(Clone, Copy)]
struct LastWake {
    time: u64,
    at: tokio::time::Instant,
}

impl Records {
    fn add(&mut self, finished: &Arc<Decision>) {
        *self.counts.outcomes.entry(finished.outcome).or_default() += 1;
        self.decisions += 1;
        self.bytes += finished.size();
        self.history.push_front((self.decisions, Arc::clone(finished)));
        while self.history.len() > REMEMBERED || self.bytes > REMEMBERED_BYTES {
            let Some((_, oldest)) = self.history.pop_back() else { break };
            self.bytes -= oldest.size();
        }
        if let (true, Some((id, _))) = (finished.outcome.is_success(), &finished.subject.domain) {
            let last_wake = LastWake { time: finished.time, at: tokio::time::Instant::now() };
            self.last_wakes.insert(id.clone(), last_wake);
        }
    }

    pub(super) fn count_unknown(&mut self) {
        self.counts.unknown += 1;
    }

    pub(super) fn forget(&mut self, id: &Id) {
        self.last_wakes.remove(id);
    }

    /// Forgets domains of this hypervisor that are gone.
    pub(super) fn forget_all_but(&mut self, uri: &str, is_known: impl Fn(&Id) -> bool) {
        self.last_wakes.retain(|id, _| &*id.connection != uri || is_known(id));
    }

    /// When a wake of the domain last succeeded.
    pub(super) fn last_success(&self, id: &Id) -> Option<tokio::time::Instant> {
        self.last_wakes.get(id).map(|last_wake| last_wake.at)
    }

    /// The last decisions before the one of this number, the newest first.
    pub(super) fn history(&self, before: u64, most: usize) -> Vec<(u64, Arc<Decision>)> {
        self.history.iter().filter(|(number, _)| *number < before).take(most).cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Engine {
    /// Logs the decision, and tells everyone.
    pub(super) fn report(&mut self, subject: Subject, outcome: Outcome, reason: String, callers: Vec<Reply>) {
        self.unsaved = true;
        let finished = Arc::new(Decision::new(subject, outcome, reason, clock::realtime()));
        match self.may_log(&finished) {
            Permit::Log => finished.log(false),
            Permit::LogLast => finished.log(true),
            Permit::Suppress => {}
        }
        self.records.add(&finished);
        // Perhaps it went while its wake was under way.
        if let Some((id, _)) = finished.subject.domain.as_ref().filter(|(id, _)| self.index.get(id).is_none())
        {
            self.records.forget(id);
        }
        for caller in callers {
            // A caller who does not wait any more needs no answer.
            let _ = caller.send(WakeReply::Decided(Arc::clone(&finished)));
        }
        // Nobody listens while the bus is away.
        let _ = self.outputs.decisions.send(finished);
    }

    /// Whether there is a line in the log for it. What packets cause without waking anything could
    /// be sent in any number.
    fn may_log(&mut self, finished: &Decision) -> Permit {
        if finished.subject.trigger() == Trigger::Call || finished.outcome.is_success() {
            return Permit::Log;
        }
        self.log_limiter.check(LineKind::of(finished), tokio::time::Instant::now())
    }

    /// The first domains after this one, in the order of their ids; without any, the hypervisors that are missing.
    pub(super) fn list(&self, after: Option<&Id>) -> Result<Vec<Listed>, String> {
        if let (0, Some(missing)) = (self.index.domains().len(), self.hypervisors.missing()) {
            return Err(missing);
        }
        let listed = self.index.after(after).take(LISTED).map(|entry| Listed {
            id: entry.domain.id.clone(),
            name: told_name(&entry.domain.name),
            state: self.known_state(&entry.domain),
            rule: entry.macs.iter().find_map(|mac| self.policy.rules.allowed_by(&entry.domain, *mac)),
            last_wake: self.records.last_wakes.get(&entry.domain.id).map(|last_wake| last_wake.time),
            macs: entry.macs.iter().take(LISTED_MACS).copied().collect(),
        });
        Ok(listed.collect())
    }

    /// Whatever it does while its hypervisor is away, nobody here knows.
    fn known_state(&self, domain: &Domain) -> State {
        match self.hypervisors.get(&domain.id.connection) {
            Some(_) => domain.state,
            None => State::Unknown,
        }
    }

    /// Whether such a packet would wake a domain, and why so.
    pub(super) fn explain(&self, mac: MacAddr, details: &PacketDetails) -> (bool, String) {
        let judge = |password| {
            let requester = decision::Requester::Packet(details, password);
            admit(self.index.find(mac), &self.policy.rules, mac, requester)
        };
        let (domain, by, paused) = match judge(Presented::NotFetched) {
            Admission::Unknown => return (false, self.unknown_in_words(mac)),
            Admission::Ambiguous(domains) => return (false, ambiguous(&domains)),
            Admission::NotAllowed(domain) => {
                return (false, format!("no rule allows {}", quoted(&domain.name)));
            }
            Admission::ConditionsNotMet(domain, rule) => {
                let reason = format!(
                    "{} is allowed by the rule {rule}, which does not take packets {}",
                    quoted(&domain.name),
                    rule.mismatch(details)
                );
                return (false, reason);
            }
            Admission::BadPassword(domain, rule) => {
                let reason =
                    format!("{} needs the SecureOn password of the rule {rule}", quoted(&domain.name));
                return (false, reason);
            }
            Admission::FetchPassword(domain, rule) => {
                let otherwise = match judge(Presented::Fetched(None)) {
                    Admission::Admitted(_, Grant { rule: Some(other), .. }) => {
                        format!(", and else by the rule {other}")
                    }
                    _ => String::new(),
                };
                (domain, format!("{rule}, if the password is right{otherwise}"), rule.paused())
            }
            Admission::Admitted(domain, grant) => (domain, grant.rule.unwrap_or_default(), grant.paused),
        };
        let (would_wake, what) = self.outlook(domain, paused);
        (would_wake, format!("{} is allowed by the rule {by}; {what}", quoted(&domain.name)))
    }

    fn unknown_in_words(&self, mac: MacAddr) -> String {
        let hold = HumanDuration::from(self.policy.times.hold);
        match self.hypervisors.missing() {
            None => format!(
                "no domain that is known has {mac}; {} shows a domain's addresses, and an [[alias]] can add one",
                self.hypervisors.commands(|it| &it.list_addresses)
            ),
            Some(missing) => format!(
                "no domain that is known has {mac}, and {missing} cannot be reached: a packet would be held for up to \
                 {hold}, until the domains there are known"
            ),
        }
    }

    fn outlook(&self, domain: &Domain, paused: Paused) -> (bool, String) {
        let uri = &domain.id.connection;
        let Some(hypervisor) = self.hypervisors.get(uri) else {
            let hold = HumanDuration::from(self.policy.times.hold);
            let reason = format!(
                "{uri} cannot be reached: it would be held for up to {hold}, and done when {uri} is back"
            );
            return (true, reason);
        };
        let since = self.records.last_success(&domain.id).map(|at| at.elapsed());
        let (would_wake, what) = match act(domain.state, paused) {
            Action::Nothing(_, reason) => return (false, reason),
            _ if decision::cools_down(Trigger::Packet, since, self.policy.times.cool_down) => {
                return (false, "a wake has succeeded just before".to_owned());
            }
            Action::Start => (true, "it would be started".to_owned()),
            Action::Resume => (true, "it would be resumed".to_owned()),
            Action::WakeUp => (true, "it would be woken up".to_owned()),
            Action::AwaitOff => (true, "it would be started once it has shut down".to_owned()),
            Action::AwaitPause => (true, format!("it is {}, and would be looked at again", domain.state)),
        };
        match hypervisor.waiting() {
            0 => (would_wake, what),
            waiting => (
                would_wake,
                format!("{what}, after {waiting} other wakes that wait for a connection to {uri}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_bounded_in_count_and_memory() {
        let finished = |length| {
            let id = Id { connection: "test:///".into(), uuid: uuid::Uuid::nil() };
            let text = || "ü".repeat(length);
            let mut subject = Subject::new(None, None, Some(text()), None);
            subject.domain = Some((id, text()));
            Arc::new(Decision::new(subject, Outcome::Failed, text(), 0))
        };
        for (length, least) in [(1, REMEMBERED), (100_000, 250)] {
            let mut records = Records::default();
            for number in 1..=5000 {
                records.add(&finished(length));
                let kept: usize = records.history.iter().map(|(_, it)| it.size()).sum();
                assert_eq!(records.bytes, kept);
                assert!(kept <= REMEMBERED_BYTES && records.history.len() <= REMEMBERED);
                assert_eq!(records.history(u64::MAX, 1)[0].0, number, "the newest is always kept");
            }
            let whole = records.history(u64::MAX, usize::MAX);
            assert!((least..=REMEMBERED).contains(&whole.len()), "{}", whole.len());
            // Page by page it is the same.
            let mut numbers = vec![u64::MAX];
            loop {
                let page = records.history(*numbers.last().unwrap(), 7);
                if page.is_empty() {
                    break;
                }
                numbers.extend(page.iter().map(|(number, _)| *number));
            }
            assert_eq!(numbers[1..], whole.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        }
    }
}
