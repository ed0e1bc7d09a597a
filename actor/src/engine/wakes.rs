//! Running wakes, and wakes that are held because their hypervisor is unavailable.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use wakevirt_protocol::explain::PendingWake;
use wakevirt_service::clock;
use wakevirt_service::logs::{kind, quoted};

use super::{Engine, Reply};
use crate::engine::attempt::{WakeResult, wake as wake_domain};
use crate::engine::state_file::SavedWake;
use crate::hypervisor::{AttemptRequest, Hypervisor, Terms};
use crate::model::{Called, Id, Outcome, Packet, State, Subject};
use crate::policy::Timing;
use crate::policy::decision::has_expired;
use crate::policy::rules::Handling;

/// The time between two attempts while a daemon that the domain needs is not running.
const UNREADY_INTERVAL: Duration = Duration::from_secs(2);

/// The wakes that have not ended, at most one for each domain.
#[derive(Default)]
pub(super) struct Wakes {
    running: HashMap<Id, Wake>,
    held: HashMap<Id, Wake>,
    /// The tasks of running wakes that have not been spawned yet.
    unspawned: Vec<WakeTask>,
    tasks: JoinSet<(Id, WakeResult)>,
}

/// The task of a running wake.
struct WakeTask {
    id: Id,
    hypervisor: Arc<dyn Hypervisor>,
    request: AttemptRequest,
    /// The delay before the first attempt.
    delay: Duration,
}

impl WakeTask {
    async fn run(self) -> (Id, WakeResult) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        (self.id, wake_domain(self.hypervisor, self.request).await)
    }
}

/// A wake. Later packets and callers for the same domain join it.
struct Wake {
    subject: Subject,
    terms: Terms,
    callers: Vec<Reply>,
    /// The start of the time that counts towards `hold`: CLOCK_BOOTTIME, in microseconds.
    since: u64,
    /// Whether the hypervisor was called for it.
    called: Called,
    /// Whether the log names the daemon for which the wake waits.
    is_logged: bool,
    /// A wake that joined and has more permissions. It runs after this one, if this one was not allowed to act.
    next: Option<Box<Wake>>,
}

impl Wakes {
    /// Waits for the end of a running wake.
    pub(super) async fn join_next(&mut self) -> Option<Result<(Id, WakeResult), JoinError>> {
        self.tasks.join_next().await
    }

    /// All wakes, in the form in which the state file stores them.
    pub(super) fn saved(&self) -> Vec<SavedWake> {
        // The hypervisor of a running wake is available, so the time until now does not count towards `hold`.
        let now = clock::boottime();
        let running = self.running.iter().map(|(id, wake)| (id, wake, now));
        let held = self.held.iter().map(|(id, wake)| (id, wake, wake.since));
        let all = running.chain(held).flat_map(|(id, wake, since)| {
            let first = SavedWake::new(id, &wake.subject, wake.terms.handling, since, wake.called);
            let later = iter::successors(wake.next.as_deref(), |wake| wake.next.as_deref());
            let later = later.map(move |wake| {
                SavedWake::new(id, &wake.subject, wake.terms.handling, wake.since.max(since), Called::No)
            });
            iter::once(first).chain(later)
        });
        all.collect()
    }

    /// The wake of this domain that has not ended, if there is one.
    pub(super) fn pending(&self, id: &Id) -> Option<PendingWake> {
        let running = self.running.contains_key(id).then_some(PendingWake::Running);
        running.or_else(|| self.held.contains_key(id).then_some(PendingWake::Held))
    }

    /// Notes that a domain is running. Returns whether there is a wake for which that is news.
    pub(super) fn set_running(&mut self, id: &Id) -> bool {
        let wake = self.running.get_mut(id);
        wake.is_some_and(|wake| std::mem::replace(&mut wake.called, Called::Running) != Called::Running)
    }

    /// Whether any wake is running.
    pub(super) fn is_any_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Holds the wakes of an earlier process until their hypervisors are available.
    pub(super) fn restore(&mut self, saved: Vec<SavedWake>) {
        for saved in saved {
            let (handling, since, called) = (saved.handling(), saved.since, saved.called);
            let (id, subject) = saved.subject();
            let terms = Terms { trigger: subject.trigger(), handling, cool_down: None };
            let wake =
                Wake { subject, terms, callers: Vec::new(), since, called, is_logged: false, next: None };
            match self.held.get_mut(&id) {
                Some(first) => first.join(wake),
                None => drop(self.held.insert(id, wake)),
            }
        }
    }
}

impl Wake {
    /// Merges another wake for the same domain into this one.
    fn join(&mut self, mut other: Self) {
        // Callers that have stopped waiting would accumulate while the wake is held.
        self.callers.retain(|caller| !caller.is_closed());
        if let Some(next) = &mut self.next {
            next.callers.retain(|caller| !caller.is_closed());
        }
        if self.terms.covers(&other.terms) {
            // This wake is held for as long as the other one would be.
            self.since = self.since.max(other.since);
            self.callers.append(&mut other.callers);
        } else if let Some(next) = &mut self.next {
            // The wake with more permissions becomes the next one, and takes over the callers of the other one.
            if other.terms.covers(&next.terms) {
                std::mem::swap(&mut **next, &mut other);
            }
            next.since = next.since.max(other.since);
            next.callers.append(&mut other.callers);
        } else {
            self.next = Some(Box::new(other));
        }
    }

    fn log_held(&self, id: &Id, reason: &str) {
        let name = self.subject.domain.as_ref().map(|(_, name)| name.as_str()).unwrap_or_default();
        tracing::warn!(
            MESSAGE_ID = kind::WAKE_HELD,
            WAKEVIRT_DOMAIN = name,
            WAKEVIRT_UUID = %id.uuid,
            WAKEVIRT_CONNECTION = &*id.connection,
            WAKEVIRT_MAC = self.subject.mac.map(display),
            "wake of {} is held: {reason}",
            quoted(name)
        );
    }
}

impl Engine {
    /// Wakes the domain, or joins its existing wake.
    pub(super) fn wake(&mut self, id: Id, subject: Subject, handling: Handling, callers: Vec<Reply>) {
        let cool_down = self.history.last_success(&id).map(|at| (at, self.policy.timing.cool_down));
        let terms = Terms { trigger: subject.trigger(), handling, cool_down };
        let received = subject.packet.as_ref().and_then(received_at);
        let since = received.unwrap_or_else(clock::boottime);
        let wake = Wake { terms, callers, since, called: Called::No, is_logged: false, next: None, subject };
        if self.is_expired(&wake) {
            return self.end_expired(id, wake);
        }
        self.run_or_hold(id, wake);
    }

    /// Joins the domain's existing wake. Without one, runs the new wake, or holds it if the hypervisor is unavailable.
    fn run_or_hold(&mut self, id: Id, wake: Wake) {
        for wakes in [&mut self.wakes.running, &mut self.wakes.held] {
            if let Some(first) = wakes.get_mut(&id) {
                tracing::debug!(WAKEVIRT_UUID = %id.uuid, "joined the earlier wake of this domain");
                first.join(wake);
                self.unsaved = true;
                return;
            }
        }
        if self.hypervisors.get(&id.connection).is_some() {
            return self.run_wake(id, wake, Duration::ZERO);
        }
        wake.log_held(&id, &format!("{} is unavailable", id.connection));
        self.unsaved = true;
        self.wakes.held.insert(id, wake);
    }

    /// Runs the wake after this delay. Its task begins with [`Self::spawn_wakes`].
    fn run_wake(&mut self, id: Id, mut wake: Wake, delay: Duration) {
        let Some(hypervisor) = self.hypervisors.get(&id.connection).cloned() else { return };
        let Timing { shutdown_wait, start_wait, .. } = self.policy.timing;
        let (uuid, terms, called) = (id.uuid, wake.terms, wake.called);
        let known_off =
            !called.is_possible() && delay.is_zero() && self.index.state(&id) == Some(State::ShutOff);
        let expired = called.is_possible() && self.is_expired(&wake);
        let request = AttemptRequest { uuid, terms, shutdown_wait, start_wait, called, known_off, expired };
        if !called.is_possible() {
            let stop = self.index.get(&id).filter(|_| known_off).map(|domain| domain.stop);
            wake.called = stop.map_or(Called::Maybe, Called::WhileOff);
        }
        // The wake changes the state before any event reports it.
        self.index.mark_changed(&id);
        self.wakes.running.insert(id.clone(), wake);
        self.unsaved = true;
        self.wakes.unspawned.push(WakeTask { id, hypervisor, request, delay });
    }

    /// Spawns the tasks of the wakes that run since the last call.
    ///
    /// The wakes are saved before any of the tasks can call the hypervisor: if this process exits, the next one continues
    /// them. They are saved together, because each save contains all wakes: when a hypervisor becomes available, there can
    /// be thousands.
    pub(super) fn spawn_wakes(&mut self) {
        if self.wakes.unspawned.is_empty() {
            return;
        }
        self.save();
        for task in std::mem::take(&mut self.wakes.unspawned) {
            self.wakes.tasks.spawn(task.run());
        }
    }

    /// Tries the wake again later, until it has expired.
    fn retry(&mut self, id: Id, mut wake: Wake, reason: &str) {
        // The result of the call is known.
        wake.called = Called::No;
        if self.is_expired(&wake) {
            return self.expire(id, wake, |age| format!("{reason}; the request is {age} s old"));
        }
        if !wake.is_logged {
            wake.is_logged = true;
            wake.log_held(&id, reason);
        }
        match self.hypervisors.get(&id.connection) {
            Some(_) => self.run_wake(id, wake, UNREADY_INTERVAL),
            None => self.run_or_hold(id, wake),
        }
    }

    /// Handles the end of a wake's task.
    pub(super) fn handle_wake_end(&mut self, end: Result<(Id, WakeResult), JoinError>) {
        let (id, end) = match end {
            Ok(end) => end,
            Err(error) => {
                return tracing::error!(MESSAGE_ID = kind::INTERNAL_ERROR, "a wake failed: {error}");
            }
        };
        let Some(mut wake) = self.wakes.running.remove(&id) else { return };
        match end {
            WakeResult::Lost { called, available } => {
                wake.called = wake.called.after(called);
                // Only the time without the hypervisor counts towards `hold`.
                let available = u64::try_from(available.as_micros()).unwrap_or(u64::MAX);
                wake.since = wake.since.saturating_add(available).min(clock::boottime());
                // The same applies to a wake that joined it.
                wake.next.iter_mut().for_each(|next| next.since = next.since.max(wake.since));
                // The hypervisor may already be connected again.
                match self.hypervisors.get(&id.connection).is_some_and(|it| it.is_alive()) {
                    true => self.run_or_hold(id, wake),
                    false => drop(self.wakes.held.insert(id, wake)),
                }
            }
            WakeResult::Unready(reason) => self.retry(id, wake, &reason),
            WakeResult::Done(outcome, reason) => self.end_wake(id, wake, outcome, reason),
            WakeResult::Expired => self.end_expired(id, wake),
        }
    }

    fn end_wake(&mut self, id: Id, mut wake: Wake, outcome: Outcome, reason: String) {
        let next = wake.next.take();
        let was_denied = matches!(outcome, Outcome::CoolingDown | Outcome::NotAllowed);
        match next {
            Some(next) if was_denied => {
                self.report(wake.subject, outcome, reason, wake.callers);
                self.run_or_hold(id, *next);
            }
            // The next wake has nothing to do.
            Some(mut next) => {
                wake.callers.append(&mut next.callers);
                self.report(wake.subject, outcome, reason, wake.callers);
            }
            None => self.report(wake.subject, outcome, reason, wake.callers),
        }
    }

    /// Runs the held wakes of a hypervisor that has become available.
    pub(super) fn start_held_wakes(&mut self, uri: &str) {
        let held = self.wakes.held.keys().filter(|id| &*id.connection == uri);
        for id in held.cloned().collect::<Vec<_>>() {
            let Some(wake) = self.wakes.held.remove(&id) else { continue };
            if self.can_expire(&wake) {
                self.end_expired(id, wake);
            } else if self.index.get(&id).is_none() {
                let reason = "the domain no longer exists".to_owned();
                self.end_wake(id, wake, Outcome::Failed, reason);
            } else {
                self.run_or_hold(id, wake);
            }
        }
    }

    /// Reports a wake that is not tried again, because the service crashed twice during it. The wake might not be the
    /// cause, but another attempt could lead to the next crash.
    pub(super) fn report_abandoned(&mut self, saved: SavedWake) {
        let (id, subject) = saved.subject();
        let name = subject.domain.as_ref().map(|(_, name)| name.as_str()).unwrap_or_default();
        tracing::error!(
            MESSAGE_ID = kind::WAKE_ABANDONED,
            WAKEVIRT_DOMAIN = name,
            WAKEVIRT_UUID = %id.uuid,
            "wake of {} is abandoned: the service crashed twice during it",
            quoted(name)
        );
        let reason = "the service crashed twice during this wake; wake the domain again".to_owned();
        self.report(subject, Outcome::Failed, reason, Vec::new());
    }

    fn is_expired(&self, wake: &Wake) -> bool {
        has_expired(age(wake.since), self.policy.timing.hold)
    }

    /// Whether the wake has expired without a call to the hypervisor. After a call, the domain's state determines the
    /// outcome once it is known.
    fn can_expire(&self, wake: &Wake) -> bool {
        !wake.called.is_possible() && self.is_expired(wake)
    }

    fn end_expired(&mut self, id: Id, wake: Wake) {
        self.expire(id, wake, |age| format!("the request is {age} s old; wake the domain again"));
    }

    /// Ends an expired wake with this reason, which contains the wake's age in seconds. A wake that joined it runs, or is
    /// held, unless it has expired as well.
    fn expire(&mut self, id: Id, mut wake: Wake, reason: impl Fn(u64) -> String) {
        loop {
            let next = wake.next.take();
            self.report(wake.subject, Outcome::Expired, reason(age(wake.since).as_secs()), wake.callers);
            match next {
                Some(next) if self.is_expired(&next) => wake = *next,
                Some(next) => return self.run_or_hold(id, *next),
                None => return,
            }
        }
    }

    /// When the first held wake or packet expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let held = self.wakes.held.values().filter(|wake| !wake.called.is_possible()).map(|wake| wake.since);
        let oldest = held.chain(self.pending.oldest()).min()?;
        // Slightly later, so that it has expired by then.
        let remaining = self.policy.timing.hold.saturating_sub(age(oldest)) + Duration::from_millis(10);
        Instant::now().checked_add(remaining)
    }

    /// Ends the held wakes and packets that have expired.
    pub(super) fn expire_held(&mut self) {
        let expired = self.wakes.held.iter().filter(|(_, wake)| self.can_expire(wake));
        for id in expired.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            if let Some(wake) = self.wakes.held.remove(&id) {
                self.end_expired(id, wake);
            }
        }
        self.expire_held_packets();
    }
}

/// When the announcer received the packet (CLOCK_BOOTTIME, in microseconds). A time in the future counts as now:
/// otherwise the packet would be held for longer than `hold`.
pub(super) fn received_at(packet: &Packet) -> Option<u64> {
    packet.details.boottime.map(|time| time.min(clock::boottime()))
}

/// The time since then (CLOCK_BOOTTIME, in microseconds).
pub(super) fn age(since: u64) -> Duration {
    Duration::from_micros(clock::boottime().saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::model::Trigger;
    use crate::policy::rules::Paused;

    fn wake(paused: Paused, caller: Reply) -> Wake {
        let handling = Handling { paused, ..Handling::default() };
        let terms = Terms { trigger: Trigger::Call, handling, cool_down: None };
        let subject = Subject::new(None, None, None, None);
        Wake {
            subject,
            terms,
            callers: vec![caller],
            since: 0,
            called: Called::No,
            is_logged: false,
            next: None,
        }
    }

    #[test]
    fn drops_callers_that_stopped_waiting() {
        for paused in [Paused::Leave, Paused::Resume] {
            let (first, _receiver) = oneshot::channel();
            let mut held = wake(Paused::Leave, first);
            for _ in 0..1000 {
                let (caller, _dropped) = oneshot::channel();
                held.join(wake(paused, caller));
            }
            let later = held.next.iter().map(|next| next.callers.len()).sum::<usize>();
            assert!(held.callers.len() + later <= 2, "{} and {later}", held.callers.len());
            assert!(!held.callers[0].is_closed(), "the caller that is still waiting is retained");
        }
    }

    /// Each wake is held for as long as the latest of those that it replaces.
    #[test]
    fn joined_wakes_have_the_latest_time() {
        let wake_of = |trigger, paused, since| {
            let mut wake = wake(paused, oneshot::channel().0);
            wake.terms.trigger = trigger;
            wake.since = since;
            wake
        };
        let packet = |paused, since| wake_of(Trigger::Packet, paused, since);
        let call = |since| wake_of(Trigger::Call, Paused::Resume, since);
        // The next wake covers the last one, or the other way around.
        for (second, third) in [(call(5), packet(Paused::Resume, 9)), (packet(Paused::Resume, 9), call(5))] {
            let mut first = packet(Paused::Leave, 1);
            first.join(second);
            first.join(third);
            let next = first.next.as_ref().unwrap();
            assert_eq!((first.since, next.since, next.terms), (1, 9, call(0).terms));
            first.join(packet(Paused::Leave, 20));
            assert_eq!((first.since, first.next.unwrap().since), (20, 9));
        }
    }
}
