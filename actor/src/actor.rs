//! The actor itself: one task that knows the domains and the rules, and makes every decision.
//!
//! Packets, calls and the hypervisor's news reach it through channels, and what comes of them leaves
//! it through channels: it holds no lock and never waits for a hypervisor. Each wake runs as a task
//! of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;
use wakevirt_protocol::MacAddr;
use wakevirt_service::lifecycle;
use wakevirt_service::logs::{Quota, quoted};

use crate::decision::{Admission, Outcome, Trigger, admit};
use crate::hypervisor::{Hypervisor, State, Update};
use crate::index::Index;
use crate::interest::Macs;
use crate::listen::Packet;
use crate::report::{Finished, Subject};
use crate::request::{Answer, Listed, Request};
use crate::rules::Rules;
use crate::wake::{End, wake};

/// How long changes of the index are gathered before they are told.
const GATHER: Duration = Duration::from_millis(50);

/// What reaches the actor.
pub struct Inlets {
    /// Packets that are believed.
    pub packets: mpsc::Receiver<Packet>,
    /// Calls of those who may call, and the administrator's wishes.
    pub requests: mpsc::Receiver<Request>,
    /// News of the hypervisor.
    pub updates: mpsc::Receiver<Update>,
}

/// What the actor tells.
pub struct Outlets {
    /// Each decision about a domain.
    pub finished: broadcast::Sender<Arc<Finished>>,
    /// The MAC addresses of all known domains.
    pub macs: watch::Sender<Macs>,
    /// What there is.
    pub status: watch::Sender<Status>,
}

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the hypervisor is connected.
    pub connected: bool,
    /// How many domains are known.
    pub domains: u32,
}

impl Status {
    /// The status in words, for the service manager.
    #[must_use]
    pub fn words(self, connection: &str) -> String {
        let away = if self.connected { "" } else { ", which cannot be reached" };
        let s = if self.domains == 1 { "" } else { "s" };
        format!("{} domain{s} of {connection}{away}", self.domains)
    }
}

/// The actor.
pub struct Actor {
    connection: String,
    rules: Rules,
    outlets: Outlets,
    index: Index,
    /// `None` while it is away. What is known of its domains stays known.
    hypervisor: Option<Arc<dyn Hypervisor>>,
    under_way: HashMap<Uuid, UnderWay>,
    wakes: JoinSet<(Uuid, End)>,
    /// When a wake last succeeded: CLOCK_REALTIME, in microseconds.
    last_wakes: HashMap<Uuid, u64>,
    /// What packets may add to the log, for each domain and for those that are ambiguous.
    quotas: HashMap<Option<Uuid>, Quota>,
    /// What packets for MAC addresses that no domain has may add to the log.
    unknown: Quota,
    tell_at: Option<tokio::time::Instant>,
}

/// A wake that is under way: all who ask for it meanwhile share it.
struct UnderWay {
    subject: Subject,
    callers: Vec<oneshot::Sender<Answer>>,
}

/// Who asks for a wake.
enum Asker {
    Packet(Packet),
    Caller(oneshot::Sender<Answer>),
}

impl Actor {
    /// An actor that knows nothing yet, for the hypervisor at this URI.
    #[must_use]
    pub fn new(connection: String, rules: Rules, outlets: Outlets) -> Self {
        Self {
            connection,
            rules,
            outlets,
            index: Index::default(),
            hypervisor: None,
            under_way: HashMap::new(),
            wakes: JoinSet::new(),
            last_wakes: HashMap::new(),
            quotas: HashMap::new(),
            unknown: quota(),
            tell_at: None,
        }
    }

    /// Acts until nobody is left who could ask for anything.
    pub async fn run(mut self, mut inlets: Inlets) {
        loop {
            let tell_at = self.tell_at.unwrap_or_else(tokio::time::Instant::now);
            tokio::select! {
                // Packets come last: they are anonymous, and there may be many.
                biased;
                Some(update) = inlets.updates.recv() => self.update(update),
                Some(end) = self.wakes.join_next() => self.ended(end),
                () = tokio::time::sleep_until(tell_at), if self.tell_at.is_some() => self.tell(),
                Some(request) = inlets.requests.recv() => self.request(request),
                Some(packet) = inlets.packets.recv() => self.consider(packet.mac, Asker::Packet(packet)),
                else => return,
            }
        }
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Up(hypervisor, domains) => {
                self.hypervisor = Some(hypervisor);
                self.index.replace(domains);
                self.quotas.clear();
                self.tell();
            }
            Update::Domain(domain) => {
                if self.index.put(domain) {
                    self.tell_soon();
                }
            }
            Update::Gone(uuid) => {
                self.last_wakes.remove(&uuid);
                self.quotas.remove(&Some(uuid));
                if self.index.remove(uuid) {
                    self.tell_soon();
                }
            }
            Update::Down => {
                self.hypervisor = None;
                self.tell();
            }
        }
    }

    /// Tells soon what there is, so that many changes are told as one.
    fn tell_soon(&mut self) {
        self.tell_at.get_or_insert_with(|| tokio::time::Instant::now() + GATHER);
    }

    fn tell(&mut self) {
        self.tell_at = None;
        let macs: Macs = Arc::new(self.index.macs().collect());
        self.outlets.macs.send_if_modified(|told| {
            let changed = **told != *macs;
            *told = macs;
            changed
        });
        let domains = u32::try_from(self.index.domains().len()).unwrap_or(u32::MAX);
        let status = Status { connected: self.hypervisor.is_some(), domains };
        self.outlets.status.send_if_modified(|told| std::mem::replace(told, status) != status);
        lifecycle::status(&status.words(&self.connection));
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Wake { mac, answer } => self.consider(mac, Asker::Caller(answer)),
            // A caller who does not wait any more needs no answer, here and below.
            Request::List { answer } => drop(answer.send(self.list())),
            Request::Rules(rules) => self.rules = rules,
        }
    }

    fn consider(&mut self, mac: MacAddr, asker: Asker) {
        let (trigger, packet) = match &asker {
            Asker::Packet(packet) => (Trigger::Packet, Some(packet)),
            Asker::Caller(_) => (Trigger::Call, None),
        };
        let subject = |domain, rule| Subject::new(mac, domain, rule, packet);
        match admit(self.index.find(mac), &self.rules, mac, trigger) {
            Admission::Unknown => self.unknown(mac, asker),
            Admission::Ambiguous(domains) => {
                let names: Vec<String> =
                    domains.iter().map(|domain| quoted(&domain.name).to_string()).collect();
                let names = names.join(", ");
                let reason =
                    format!("{names} have this MAC address; give one another, or name one in a rule");
                self.finish(subject(None, None), Outcome::Ambiguous, reason, asker.callers());
            }
            Admission::NotAllowed(domain) => {
                let subject = subject(Some(domain), None);
                self.finish(subject, Outcome::NotAllowed, "no rule allows it".to_owned(), asker.callers());
            }
            Admission::Admitted(domain, rule) => {
                let (uuid, subject) = (domain.uuid, subject(Some(domain), rule));
                self.wake(uuid, subject, asker.callers());
            }
        }
    }

    /// Counted, and shown to those who look for it; there may be many other machines on the network.
    fn unknown(&mut self, mac: MacAddr, asker: Asker) {
        match asker {
            Asker::Packet(_) => {
                if let Some(held_back) = self.unknown.take(Instant::now()) {
                    tracing::debug!(%mac, held_back, "packet for {mac}, which no domain has");
                }
            }
            Asker::Caller(answer) => {
                let away = self.hypervisor.is_none();
                let _ = answer.send(if away { Answer::Away } else { Answer::Unknown });
            }
        }
    }

    /// Wakes the domain, or joins the wake that is under way for it.
    fn wake(&mut self, uuid: Uuid, subject: Subject, mut callers: Vec<oneshot::Sender<Answer>>) {
        if let Some(under_way) = self.under_way.get_mut(&uuid) {
            tracing::debug!(%uuid, mac = %subject.mac, "joins the wake that is under way");
            under_way.callers.append(&mut callers);
            return;
        }
        let Some(hypervisor) = self.hypervisor.clone() else {
            let reason = format!("{} cannot be reached", self.connection);
            self.finish(subject, Outcome::Failed, reason, Vec::new());
            for caller in callers {
                let _ = caller.send(Answer::Away);
            }
            return;
        };
        self.under_way.insert(uuid, UnderWay { subject, callers });
        self.wakes.spawn(async move { (uuid, wake(hypervisor, uuid).await) });
    }

    fn ended(&mut self, end: Result<(Uuid, End), JoinError>) {
        let (uuid, (outcome, reason)) = match end {
            Ok(end) => end,
            Err(error) => return tracing::error!("a wake was not done to its end: {error}"),
        };
        if outcome == Outcome::Started {
            self.last_wakes.insert(uuid, now());
        }
        if let Some(UnderWay { subject, callers }) = self.under_way.remove(&uuid) {
            self.finish(subject, outcome, reason, callers);
        }
    }

    /// Logs the decision, and tells everyone.
    fn finish(
        &mut self,
        subject: Subject,
        outcome: Outcome,
        reason: String,
        callers: Vec<oneshot::Sender<Answer>>,
    ) {
        let finished = Arc::new(Finished { subject, outcome, reason, connection: self.connection.clone() });
        if let Some(held_back) = self.may_log(&finished) {
            finished.log(held_back);
        }
        for caller in callers {
            let _ = caller.send(Answer::Finished(Arc::clone(&finished)));
        }
        // Nobody listens while the bus is away.
        let _ = self.outlets.finished.send(finished);
    }

    /// Whether there is a line in the log for it. What packets cause without starting anything could
    /// be sent in any number.
    fn may_log(&mut self, finished: &Finished) -> Option<u64> {
        if finished.subject.trigger() == Trigger::Call || finished.outcome == Outcome::Started {
            return Some(0);
        }
        let uuid = finished.subject.domain.as_ref().map(|(uuid, _)| *uuid);
        let quota = self.quotas.entry(uuid).or_insert_with(quota);
        quota.take(Instant::now())
    }

    fn list(&self) -> Vec<Listed> {
        let connected = self.hypervisor.is_some();
        let listed = self.index.domains().map(|domain| Listed {
            connection: self.connection.clone(),
            // Whatever it does now, nobody here knows.
            state: if connected { domain.state } else { State::Unknown },
            rule: domain
                .macs
                .iter()
                .find_map(|mac| self.rules.allowing(domain, *mac))
                .map(ToString::to_string),
            last_wake: self.last_wakes.get(&domain.uuid).copied(),
            domain: domain.clone(),
        });
        listed.collect()
    }
}

impl Asker {
    fn callers(self) -> Vec<oneshot::Sender<Answer>> {
        match self {
            Self::Packet(_) => Vec::new(),
            Self::Caller(answer) => vec![answer],
        }
    }
}

/// Lines that packets can cause: a few a minute.
const fn quota() -> Quota {
    Quota::new(3, Duration::from_secs(60))
}

/// CLOCK_REALTIME, in microseconds.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
