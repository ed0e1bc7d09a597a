//! What the actor remembers and answers: decisions that were made, counts, lists, explanations.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

use super::lines::{Kind, Verdict};
use super::{Actor, Caller, ambiguous, now};
use crate::decision::{self, Action, Admission, Outcome, Presented, Trigger, act, admit};
use crate::hypervisor::{Domain, Id, State};
use crate::report::{Finished, Subject};
use crate::request::{Answer, Counts, Listed};
use crate::rules::Paused;

/// Decisions that are remembered.
const REMEMBERED: usize = 1000;

/// What is remembered of decisions.
#[derive(Default)]
pub(super) struct Records {
    counts: Counts,
    history: VecDeque<Arc<Finished>>,
    last_wakes: HashMap<Id, LastWake>,
}

/// When a wake last succeeded: by the clock on the wall, and by one that nobody sets.
#[derive(Clone, Copy)]
struct LastWake {
    time: u64,
    at: tokio::time::Instant,
}

impl Records {
    fn add(&mut self, finished: &Arc<Finished>) {
        *self.counts.outcomes.entry(finished.outcome).or_default() += 1;
        self.history.truncate(REMEMBERED - 1);
        self.history.push_front(Arc::clone(finished));
        if let (true, Some((id, _))) = (finished.outcome.is_success(), &finished.subject.domain) {
            let last_wake = LastWake { time: finished.time, at: tokio::time::Instant::now() };
            self.last_wakes.insert(id.clone(), last_wake);
        }
    }

    pub(super) fn unknown(&mut self) {
        self.counts.unknown += 1;
    }

    pub(super) fn forget(&mut self, id: &Id) {
        self.last_wakes.remove(id);
    }

    /// When a wake of the domain last succeeded.
    pub(super) fn last_success(&self, id: &Id) -> Option<tokio::time::Instant> {
        self.last_wakes.get(id).map(|last_wake| last_wake.at)
    }

    pub(super) fn history(&self, most: usize) -> Vec<Arc<Finished>> {
        self.history.iter().take(most).cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Actor {
    /// Logs the decision, and tells everyone.
    pub(super) fn finish(
        &mut self,
        subject: Subject,
        outcome: Outcome,
        reason: String,
        callers: Vec<Caller>,
    ) {
        self.changed = true;
        let finished = Arc::new(Finished { subject, outcome, reason, time: now() });
        match self.may_log(&finished) {
            Verdict::Log => finished.log(false),
            Verdict::LogLast => finished.log(true),
            Verdict::Count => {}
        }
        self.records.add(&finished);
        for caller in callers {
            // A caller who does not wait any more needs no answer.
            let _ = caller.send(Answer::Finished(Arc::clone(&finished)));
        }
        // Nobody listens while the bus is away.
        let _ = self.outlets.finished.send(finished);
    }

    /// Whether there is a line in the log for it. What packets cause without waking anything could
    /// be sent in any number.
    fn may_log(&mut self, finished: &Finished) -> Verdict {
        if finished.subject.trigger() == Trigger::Call || finished.outcome.is_success() {
            return Verdict::Log;
        }
        self.lines.ask(Kind::of(finished), tokio::time::Instant::now())
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = self.index.entries().map(|entry| Listed {
            state: self.known_state(&entry.domain),
            rule: entry.macs.iter().find_map(|mac| self.policy.rules.allowing(&entry.domain, *mac)),
            last_wake: self.records.last_wakes.get(&entry.domain.id).map(|last_wake| last_wake.time),
            macs: entry.macs.clone(),
            domain: entry.domain.clone(),
        });
        listed.collect()
    }

    /// Whatever it does while its hypervisor is away, nobody here knows.
    fn known_state(&self, domain: &Domain) -> State {
        match self.hypervisor(&domain.id.connection) {
            Some(_) => domain.state,
            None => State::Unknown,
        }
    }

    /// Whether such a packet would wake a domain, and why so.
    pub(super) fn explain(&self, mac: MacAddr, details: &PacketDetails) -> (bool, String) {
        let asker = decision::Asker::Packet(details, Presented::NotFetched);
        let (domain, by, paused) = match admit(self.index.find(mac), &self.policy.rules, mac, asker) {
            Admission::Unknown => return (false, format!("no domain that is known has {mac}")),
            Admission::Ambiguous(domains) => return (false, ambiguous(&domains)),
            Admission::NotAllowed(domain) => return (false, format!("no rule allows {}", domain.name)),
            Admission::Refused(domain, rule) => {
                let reason = format!(
                    "{} is allowed by the rule {rule}, which does not take packets {}",
                    domain.name,
                    rule.refused(details)
                );
                return (false, reason);
            }
            Admission::BadPassword(domain, rule) => {
                let reason = format!("{} needs the SecureOn password of the rule {rule}", domain.name);
                return (false, reason);
            }
            Admission::FetchPassword(domain, rule) => {
                (domain, format!("{rule}, if the password is right"), rule.paused())
            }
            Admission::Admitted(domain, grant) => (domain, grant.rule.unwrap_or_default(), grant.paused),
        };
        let (would_wake, what) = self.outlook(domain, paused);
        (would_wake, format!("{} is allowed by the rule {by}; {what}", domain.name))
    }

    fn outlook(&self, domain: &Domain, paused: Paused) -> (bool, String) {
        if self.hypervisor(&domain.id.connection).is_none() {
            return (true, format!("it would wait for {}, which cannot be reached", domain.id.connection));
        }
        let since = self.records.last_success(&domain.id).map(|at| at.elapsed());
        match act(domain.state, paused) {
            Action::Nothing(_, reason) => (false, reason),
            _ if decision::cools_down(Trigger::Packet, since, self.policy.times.cool_down) => {
                (false, "a wake has succeeded just before".to_owned())
            }
            Action::Start => (true, "it would be started".to_owned()),
            Action::Resume => (true, "it would be resumed".to_owned()),
            Action::WakeUp => (true, "it would be woken up".to_owned()),
            Action::AwaitOff => (true, "it would be started once it has shut down".to_owned()),
            Action::AwaitPause => (true, format!("it is {}, and would be looked at again", domain.state)),
        }
    }
}
