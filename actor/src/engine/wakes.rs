//! Wakes that are under way, and those that wait for their hypervisor.

use std::collections::HashMap;
use std::iter;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use wakevirt_service::clock;

use super::{Engine, Reply};
use crate::engine::attempt::{End, wake as wake_domain};
use crate::engine::state_file::SavedWake;
use crate::hypervisor::{Order, Terms};
use crate::model::{Id, Outcome, Packet, State, Subject};
use crate::policy::decision::has_expired;
use crate::policy::rules::Paused;

/// The wakes.
#[derive(Default)]
pub(super) struct Wakes {
    under_way: HashMap<Id, Wake>,
    /// Those whose hypervisor is away.
    held: HashMap<Id, Wake>,
    tasks: JoinSet<(Id, End)>,
}

/// A wake: all who ask for it meanwhile share it.
struct Wake {
    subject: Subject,
    terms: Terms,
    callers: Vec<Reply>,
    /// When it was asked for: CLOCK_BOOTTIME, in microseconds.
    since: u64,
    /// Whether the hypervisor was called for it, and has not told what came of that.
    called: bool,
    /// What was asked for meanwhile and may do more: done after this one, if this one was not allowed to.
    next: Option<Box<Wake>>,
}

impl Wakes {
    /// The end of one that is under way.
    pub(super) async fn join_next(&mut self) -> Option<Result<(Id, End), JoinError>> {
        self.tasks.join_next().await
    }

    /// What has not ended, to be written down.
    pub(super) fn intents(&self) -> Vec<SavedWake> {
        // What is under way does not wait for its hypervisor, and has not done so until now.
        let now = clock::boottime();
        let under_way = self.under_way.iter().map(|(id, wake)| (id, wake, true, now));
        let held = self.held.iter().map(|(id, wake)| (id, wake, wake.called, wake.since));
        let all = under_way.chain(held).flat_map(|(id, wake, called, since)| {
            let first = SavedWake::new(id, &wake.subject, wake.terms.paused, since, called);
            let later = iter::successors(wake.next.as_deref(), |wake| wake.next.as_deref());
            let later = later.map(move |wake| {
                SavedWake::new(id, &wake.subject, wake.terms.paused, wake.since.max(since), false)
            });
            iter::once(first).chain(later)
        });
        all.collect()
    }

    /// Whether any wake is being done.
    pub(super) fn is_one_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Takes up what had not ended when the last process did: what is to be done is judged by the
    /// domain's state, as soon as its hypervisor tells it.
    pub(super) fn restore(&mut self, intents: Vec<SavedWake>) {
        for intent in intents {
            let (paused, since, called) = (intent.paused(), intent.since, intent.called);
            let (id, subject) = intent.subject();
            let terms = Terms { trigger: subject.trigger(), paused, cool_down: None };
            let wake = Wake { subject, terms, callers: Vec::new(), since, called, next: None };
            match self.held.get_mut(&id) {
                Some(same) => same.join(wake),
                None => drop(self.held.insert(id, wake)),
            }
        }
    }
}

impl Wake {
    /// Takes another one for the same domain in.
    fn join(&mut self, mut other: Self) {
        // Who has given up would be kept for as long as the wake is held.
        self.callers.retain(|caller| !caller.is_closed());
        if let Some(next) = &mut self.next {
            next.callers.retain(|caller| !caller.is_closed());
        }
        if self.terms.cover(&other.terms) {
            // It lasts for as long as the later one would.
            self.since = self.since.max(other.since);
            self.callers.append(&mut other.callers);
        } else if let Some(next) = &mut self.next {
            // The one that may do more goes on.
            if other.terms.cover(&next.terms) {
                std::mem::swap(&mut **next, &mut other);
            }
            next.callers.append(&mut other.callers);
        } else {
            self.next = Some(Box::new(other));
        }
    }
}

impl Engine {
    /// Wakes the domain, or joins the wake that is under way for it.
    pub(super) fn wake(&mut self, id: Id, subject: Subject, paused: Paused, callers: Vec<Reply>) {
        let cool_down = self.records.last_success(&id).map(|at| (at, self.policy.times.cool_down));
        let terms = Terms { trigger: subject.trigger(), paused, cool_down };
        let seen = subject.packet.as_ref().and_then(seen);
        let wake = Wake {
            terms,
            callers,
            since: seen.unwrap_or_else(clock::boottime),
            called: false,
            next: None,
            subject,
        };
        if self.is_expired(&wake) {
            return self.expired(id, wake);
        }
        self.begin(id, wake);
    }

    fn begin(&mut self, id: Id, wake: Wake) {
        for same in [&mut self.wakes.under_way, &mut self.wakes.held] {
            if let Some(same) = same.get_mut(&id) {
                tracing::debug!(uuid = %id.uuid, "joins the wake that is under way");
                same.join(wake);
                self.unsaved = true;
                return;
            }
        }
        let Some(hypervisor) = self.hypervisors.get(&id.connection).cloned() else {
            let name = wake.subject.domain.as_ref().map(|(_, name)| name.as_str()).unwrap_or_default();
            tracing::info!(
                "the wake of {} waits for {}, which cannot be reached",
                wakevirt_service::logs::quoted(name),
                id.connection
            );
            self.unsaved = true;
            self.wakes.held.insert(id, wake);
            return;
        };
        let shutdown_wait = self.policy.times.shutdown_wait;
        let (uuid, terms, called) = (id.uuid, wake.terms, wake.called);
        let known_off = !called && self.index.state(&id) == Some(State::ShutOff);
        let expired = called && self.is_expired(&wake);
        let order = Order { uuid, terms, shutdown_wait, called, known_off, expired };
        // By this wake, before any event tells it.
        self.index.note_change(&id);
        self.wakes.under_way.insert(id.clone(), wake);
        // Before the hypervisor is called: should the process end meanwhile, the next one takes it up.
        self.unsaved = true;
        self.save();
        self.wakes.tasks.spawn(async move { (id, wake_domain(hypervisor, order).await) });
    }

    pub(super) fn ended(&mut self, end: Result<(Id, End), JoinError>) {
        let (id, end) = match end {
            Ok(end) => end,
            Err(error) => return tracing::error!("a wake was not done to its end: {error}"),
        };
        let Some(mut wake) = self.wakes.under_way.remove(&id) else { return };
        match end {
            End::Lost { called, reachable } => {
                wake.called = called;
                // While other wakes had the connection, or the domain was shutting down, it did not wait for the
                // hypervisor.
                let reachable = u64::try_from(reachable.as_micros()).unwrap_or(u64::MAX);
                wake.since = wake.since.saturating_add(reachable).min(clock::boottime());
                // What has joined it has waited with it.
                wake.next.iter_mut().for_each(|next| next.since = next.since.max(wake.since));
                // Perhaps the connection is back already, under another handle.
                match self.hypervisors.get(&id.connection).is_some_and(|it| it.is_alive()) {
                    true => self.begin(id, wake),
                    false => drop(self.wakes.held.insert(id, wake)),
                }
            }
            End::Done(outcome, reason) => self.done(id, wake, outcome, reason),
            End::Expired => self.expired(id, wake),
        }
    }

    fn done(&mut self, id: Id, mut wake: Wake, outcome: Outcome, reason: String) {
        let next = wake.next.take();
        let refused = matches!(outcome, Outcome::CoolingDown | Outcome::NotAllowed);
        match next {
            Some(next) if refused => {
                self.report(wake.subject, outcome, reason, wake.callers);
                self.begin(id, *next);
            }
            // What more it might have done is done.
            Some(mut next) => {
                wake.callers.append(&mut next.callers);
                self.report(wake.subject, outcome, reason, wake.callers);
            }
            None => self.report(wake.subject, outcome, reason, wake.callers),
        }
    }

    /// Does what has waited for this hypervisor.
    pub(super) fn resume_held(&mut self, uri: &str) {
        let held = self.wakes.held.keys().filter(|id| &*id.connection == uri);
        for id in held.cloned().collect::<Vec<_>>() {
            let Some(wake) = self.wakes.held.remove(&id) else { continue };
            if self.may_expire(&wake) {
                self.expired(id, wake);
            } else if self.index.get(&id).is_none() {
                let reason = "the domain was gone when the hypervisor came back".to_owned();
                self.done(id, wake, Outcome::Failed, reason);
            } else {
                self.begin(id, wake);
            }
        }
    }

    /// Ends a wake during which the service has crashed again and again. Perhaps it is not the reason, but to try it
    /// once more could be the next crash.
    pub(super) fn give_up(&mut self, intent: SavedWake) {
        let (_, subject) = intent.subject();
        let name = subject.domain.as_ref().map(|(_, name)| name.as_str()).unwrap_or_default();
        tracing::error!(
            "the wake of {} is given up: the service has crashed twice while it was under way",
            wakevirt_service::logs::quoted(name)
        );
        let reason = "the service has crashed twice while this was under way; wake it again".to_owned();
        self.report(subject, Outcome::Failed, reason, Vec::new());
    }

    fn is_expired(&self, wake: &Wake) -> bool {
        has_expired(age(wake.since), self.policy.times.hold)
    }

    /// Whether it has waited for too long, and nothing was done for it. If the hypervisor was called, the domain's
    /// state decides what came of it, as soon as it is known.
    fn may_expire(&self, wake: &Wake) -> bool {
        !wake.called && self.is_expired(wake)
    }

    fn expired(&mut self, id: Id, mut wake: Wake) {
        let reason = format!("it was asked for {} s ago; wake it again", age(wake.since).as_secs());
        let next = wake.next.take();
        self.report(wake.subject, Outcome::Expired, reason, wake.callers);
        match next {
            Some(next) if self.is_expired(&next) => self.expired(id, *next),
            Some(next) => self.begin(id, *next),
            None => {}
        }
    }

    /// When the next thing that waits is too old.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let held = self.wakes.held.values().filter(|wake| !wake.called).map(|wake| wake.since);
        let oldest = held.chain(self.pending.oldest()).min()?;
        // A little later, so that it is too old then.
        let left = self.policy.times.hold.saturating_sub(age(oldest)) + Duration::from_millis(10);
        Instant::now().checked_add(left)
    }

    /// Ends what has waited for too long.
    pub(super) fn expire(&mut self) {
        let old = self.wakes.held.iter().filter(|(_, wake)| self.may_expire(wake)).map(|(id, _)| id.clone());
        for id in old.collect::<Vec<_>>() {
            if let Some(wake) = self.wakes.held.remove(&id) {
                self.expired(id, wake);
            }
        }
        self.end_old_packets();
    }
}

/// When the packet was seen, as the announcer says (CLOCK_BOOTTIME, in microseconds). A time that is still to come
/// would be waited for beyond `hold`.
pub(super) fn seen(packet: &Packet) -> Option<u64> {
    packet.details.boottime.map(|time| time.min(clock::boottime()))
}

/// How long ago that was (CLOCK_BOOTTIME, in microseconds).
pub(super) fn age(since: u64) -> Duration {
    Duration::from_micros(clock::boottime().saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::model::Trigger;

    fn wake(paused: Paused, caller: Reply) -> Wake {
        let terms = Terms { trigger: Trigger::Call, paused, cool_down: None };
        let subject = Subject::new(None, None, None, None);
        Wake { subject, terms, callers: vec![caller], since: 0, called: false, next: None }
    }

    #[test]
    fn callers_who_gave_up_do_not_pile_up() {
        for paused in [Paused::Leave, Paused::Resume] {
            let (first, _waits) = oneshot::channel();
            let mut held = wake(Paused::Leave, first);
            for _ in 0..1000 {
                let (caller, _gives_up) = oneshot::channel();
                held.join(wake(paused, caller));
            }
            let later = held.next.iter().map(|next| next.callers.len()).sum::<usize>();
            assert!(held.callers.len() + later <= 2, "{} and {later}", held.callers.len());
            assert!(!held.callers[0].is_closed(), "who waits is kept");
        }
    }
}
