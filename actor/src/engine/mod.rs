//! The actor itself: one task that knows the domains and the rules, and makes every decision.
//!
//! Packets, calls and the hypervisors' news reach it through channels, and what comes of them leaves
//! it through channels: it holds no lock and never waits for a hypervisor. Each wake runs as a task
//! of its own.

pub mod attempt;
mod early_requests;
mod hypervisors;
pub mod index;
mod log_limiter;
mod pending;
mod queries;
pub mod report;
pub mod request;
mod rule_check;
pub mod state_file;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wakevirt_protocol::{MacAddr, Password};
use wakevirt_service::lifecycle::{self, Watchdog};
use wakevirt_service::logs::quoted;

use crate::announcer::LostPackets;
use crate::announcer::Macs;
use crate::announcer::NewPacket;
use crate::announcer::PasswordRequest;
use crate::engine::index::Index;
use crate::engine::report::Decision;
use crate::engine::request::{Request, WakeReply};
use crate::engine::state_file::{SavedState, StateFile};
use crate::hypervisor::{Endpoint, Update};
use crate::model::{Caller, Domain, Outcome, Packet, Position, Subject, WakeTarget};
use crate::policy::Policy;
use crate::policy::decision::{self, Admission, Grant, Presented, admit};
use crate::policy::rules::Rules;
use early_requests::Early;
use hypervisors::Hypervisors;
use log_limiter::LogLimiter;
use pending::Pending;
use queries::Records;
use wakes::Wakes;

/// How long changes of the index are gathered before they are told.
const GATHER: Duration = Duration::from_millis(50);
/// How often it is written down that wakes are still under way, and what has become harmless.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// How soon it is written down that packets were decided about which left nothing else to write.
const MOVED: Duration = Duration::from_secs(1);

/// What reaches the actor.
pub struct Inputs {
    /// Packets that are believed.
    pub packets: mpsc::Receiver<NewPacket>,
    /// Calls of those who may call, and the administrator's wishes.
    pub requests: mpsc::Receiver<Request>,
    /// News of the hypervisors.
    pub updates: mpsc::Receiver<Update>,
}

/// What the actor tells, and asks.
pub struct Outputs {
    /// Each decision about a domain.
    pub decisions: broadcast::Sender<Arc<Decision>>,
    /// The MAC addresses of all known domains.
    pub macs: watch::Sender<Macs>,
    /// What there is.
    pub status: watch::Sender<Status>,
    /// Passwords that rules ask for.
    pub fetches: mpsc::Sender<PasswordRequest>,
    /// Packets for which there is no place.
    pub lost: LostPackets,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The hypervisors' URIs, and whether each is connected.
    pub connections: Vec<(Arc<str>, bool)>,
    /// How many domains are known.
    pub domains: u32,
}

impl Status {
    /// The status in words, for the service manager.
    #[must_use]
    pub fn words(&self) -> String {
        let s = if self.domains == 1 { "" } else { "s" };
        let connections: Vec<String> = self
            .connections
            .iter()
            .map(|(uri, connected)| {
                format!("{uri}{}", if *connected { "" } else { ", which cannot be reached" })
            })
            .collect();
        format!("{} domain{s} of {}", self.domains, connections.join("; "))
    }
}

/// The actor.
pub struct Engine {
    policy: Policy,
    outputs: Outputs,
    index: Index,
    hypervisors: Hypervisors,
    early: Early,
    wakes: Wakes,
    pending: Pending,
    fetched: JoinSet<(Packet, Result<Password, String>)>,
    records: Records,
    state_file: StateFile,
    position: Position,
    /// Whether there is something that the memory does not know, and when it was last told.
    unsaved: bool,
    kept_at: Instant,
    /// Since when the position is not the one that the memory knows.
    moved_at: Option<Instant>,
    /// Whether the rules were compared with the domains that there are.
    checked: bool,
    log_limiter: LogLimiter,
    publish_at: Option<Instant>,
}

type Reply = oneshot::Sender<WakeReply>;

impl Engine {
    /// An actor that knows nothing yet, for the hypervisors at these URIs.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, policy: Policy, outputs: Outputs) -> Self {
        Self {
            index: Index::new(policy.aliases.clone()),
            policy,
            outputs,
            hypervisors: Hypervisors::new(endpoints),
            early: Early::default(),
            wakes: Wakes::default(),
            pending: Pending::default(),
            fetched: JoinSet::new(),
            records: Records::default(),
            state_file: StateFile::default(),
            position: Position::default(),
            unsaved: false,
            kept_at: Instant::now(),
            moved_at: None,
            checked: false,
            log_limiter: LogLimiter::default(),
            publish_at: None,
        }
    }

    /// Goes on with what was under way, and keeps there what is.
    #[must_use]
    pub fn with_saved_state(mut self, state_file: StateFile, state: SavedState) -> Self {
        self.state_file = state_file;
        self.position = state.position;
        self.pending.restore(state.waiting);
        self.wakes.restore(state.intents);
        state.given_up.into_iter().for_each(|intent| self.give_up(intent));
        self
    }

    /// Acts until nobody is left who could ask for anything.
    pub async fn run(mut self, mut inputs: Inputs) {
        self.publish();
        let mut watchdog = Watchdog::from_env();
        loop {
            if self.unsaved {
                // Whoever waits for a decision learns it first: what is under way was written down before
                // it began, and is judged by the domain's state should the process end in between.
                tokio::task::yield_now().await;
                self.save();
            }
            let publish_at = self.publish_at.unwrap_or_else(Instant::now);
            let write_at = self.write_at();
            let is_to_be_written = write_at.is_some();
            let write_at = write_at.unwrap_or_else(Instant::now);
            let expiry = self.next_expiry();
            let expire_at = expiry.unwrap_or_else(Instant::now);
            let lines_end = self.log_limiter.end_at();
            let end_lines_at = lines_end.unwrap_or_else(Instant::now);
            let early = self.early.until();
            tokio::select! {
                // Packets come last: they are anonymous, and there may be many.
                biased;
                // By itself it would keep the loop alive.
                () = watchdog.due(), if watchdog.is_enabled() => watchdog.notify(),
                Some(update) = inputs.updates.recv() => self.handle_update(update),
                Some(end) = self.wakes.join_next() => self.ended(end),
                Some(fetched) = self.fetched.join_next() => match fetched {
                    Ok((packet, password)) => {
                        self.pending.fetched(&packet);
                        self.handle_packet(packet, Some(password));
                    }
                    Err(error) => tracing::error!("a password was not fetched: {error}"),
                },
                () = tokio::time::sleep_until(publish_at), if self.publish_at.is_some() => self.publish(),
                () = tokio::time::sleep_until(expire_at), if expiry.is_some() => self.expire(),
                () = tokio::time::sleep_until(end_lines_at), if lines_end.is_some() => {
                    self.log_limiter.end(Instant::now());
                }
                () = tokio::time::sleep_until(early), if !self.early.is_empty() => self.answer_early(),
                () = tokio::time::sleep_until(write_at), if is_to_be_written => self.unsaved = true,
                Some(request) = inputs.requests.recv() => self.request_or_wait(request),
                Some(NewPacket { packet, position }) = inputs.packets.recv() => {
                    self.position = position;
                    self.moved_at.get_or_insert_with(Instant::now);
                    self.handle_packet(packet, None);
                }
                else => return,
            }
        }
    }

    /// When something is to be written down that no decision has changed.
    fn write_at(&self) -> Option<Instant> {
        let is_again = self.wakes.is_one_under_way() || self.state_file.needs_rewrite();
        let again = is_again.then(|| self.kept_at + WRITE_AGAIN);
        again.into_iter().chain(self.moved_at.map(|at| at + MOVED)).min()
    }

    /// Writes down what has changed.
    fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        self.kept_at = Instant::now();
        self.moved_at = None;
        if !self.state_file.is_available() {
            return;
        }
        let position = self.position.clone();
        let (waiting, intents) = (self.pending.packets(), self.wakes.intents());
        self.state_file.save(&SavedState { position, waiting, intents, given_up: Vec::new() });
    }

    fn handle_update(&mut self, update: Update) {
        match update {
            Update::Up(uri, hypervisor, domains) => {
                self.hypervisors.up(&uri, hypervisor);
                domains.iter().for_each(|domain| note_name(&mut self.policy.rules, domain));
                self.index.replace(&uri, domains);
                self.records.forget_all_but(&uri, |id| self.index.get(id).is_some());
                self.publish();
                self.check_rules();
                self.resume_held(&uri);
                self.decide_held_packets();
                self.answer_early_if_settled();
            }
            Update::Changing(id) => self.index.note_change(&id),
            Update::Domain(domain) => {
                note_name(&mut self.policy.rules, &domain);
                if self.index.put(domain) {
                    self.publish_soon();
                }
            }
            Update::Gone(id) => {
                self.records.forget(&id);
                if self.index.remove(&id) {
                    self.publish_soon();
                }
            }
            Update::Down(uri) => {
                self.hypervisors.down(&uri);
                self.publish();
                self.answer_early_if_settled();
            }
        }
    }

    /// Tells soon what there is, so that many changes are told as one.
    fn publish_soon(&mut self) {
        self.publish_at.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn publish(&mut self) {
        self.publish_at = None;
        let macs: Macs = Arc::new(self.index.macs().collect());
        self.outputs.macs.send_if_modified(|told| {
            let changed = **told != *macs;
            *told = macs;
            changed
        });
        let connections = self.hypervisors.connections();
        let domains = u32::try_from(self.index.domains().len()).unwrap_or(u32::MAX);
        let status = Status { connections, domains };
        lifecycle::status(&status.words());
        self.outputs.status.send_if_modified(|told| {
            let changed = *told != status;
            *told = status;
            changed
        });
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Wake { target, caller, reply } => self.handle_call(&target, caller, reply),
            // A caller that no longer waits needs no reply, here and below.
            Request::Explain { mac, details, reply } => drop(reply.send(self.explain(mac, &details))),
            Request::List { after, reply } => drop(reply.send(self.list(after.as_ref()))),
            Request::History { before, limit, reply } => {
                drop(reply.send(self.records.history(before, limit)));
            }
            Request::Counts { reply } => drop(reply.send(self.records.counts())),
            Request::SaveState { reply } => {
                self.unsaved = true;
                self.save();
                let _ = reply.send(());
            }
            Request::SetPolicy(policy) => {
                if policy.aliases != self.policy.aliases {
                    self.index.set_aliases(policy.aliases.clone());
                    self.publish_soon();
                }
                self.policy = policy;
                self.index.domains().for_each(|domain| note_name(&mut self.policy.rules, domain));
                self.checked = false;
                self.check_rules();
                self.log_limiter.reset();
            }
        }
    }

    fn handle_call(&mut self, target: &WakeTarget, by: Caller, reply: Reply) {
        let (mac, found) = match target {
            WakeTarget::Mac(mac) => (Some(*mac), self.index.find(*mac)),
            WakeTarget::Domain(name) => (None, self.index.find_domain(name)),
        };
        // The rules are for packets; here they only tell which of several domains is meant.
        let rules = &self.policy.rules;
        let nobody = MacAddr::new([0; 6]);
        match admit(found, rules, mac.unwrap_or(nobody), decision::Requester::Call) {
            Admission::Ambiguous(domains) => {
                let reason = ambiguous(&domains);
                let subject = Subject::new(mac, None, None, None).called_by(by);
                self.report(subject, Outcome::Ambiguous, reason, vec![reply]);
            }
            Admission::Admitted(domain, grant) => {
                let id = domain.id.clone();
                let rule = mac.and(grant.rule.clone());
                let subject = Subject::new(mac, Some(domain), rule, None).called_by(by);
                self.wake(id, subject, grant.paused, vec![reply]);
            }
            _ => {
                let answer =
                    self.hypervisors.missing().map_or(WakeReply::UnknownDomain, WakeReply::HypervisorAway);
                let _ = reply.send(answer);
            }
        }
    }

    /// Decides about a packet, whose password was fetched or not.
    fn handle_packet(&mut self, packet: Packet, password: Option<Result<Password, String>>) {
        let presented = match &password {
            None => Presented::NotFetched,
            Some(password) => Presented::Fetched(password.as_ref().ok()),
        };
        let requester = decision::Requester::Packet(&packet.details, presented);
        let mac = packet.mac;
        let subject = |domain, rule| Subject::new(Some(mac), domain, rule, Some(&packet));
        let (subject, outcome, reason) = match admit(self.index.find(mac), &self.policy.rules, mac, requester)
        {
            Admission::Unknown => return self.hold_or_count(packet),
            Admission::FetchPassword(..) => return self.fetch_password(packet),
            Admission::Admitted(domain, Grant { rule, paused }) => {
                let (id, subject) = (domain.id.clone(), subject(Some(domain), rule));
                return self.wake(id, subject, paused, Vec::new());
            }
            Admission::Ambiguous(domains) => (subject(None, None), Outcome::Ambiguous, ambiguous(&domains)),
            Admission::NotAllowed(domain) => {
                (subject(Some(domain), None), Outcome::NotAllowed, "no rule allows it".to_owned())
            }
            Admission::ConditionsNotMet(domain, rule) => {
                let reason = format!("the rule does not take packets {}", rule.mismatch(&packet.details));
                (subject(Some(domain), Some(rule.to_string())), Outcome::NotAllowed, reason)
            }
            Admission::BadPassword(domain, rule) => {
                let reason = match &password {
                    Some(Err(error)) => format!("its SecureOn password cannot be fetched: {error}"),
                    Some(Ok(_)) => "its SecureOn password is wrong".to_owned(),
                    None => "it has no SecureOn password, and the rule asks for one".to_owned(),
                };
                (subject(Some(domain), Some(rule.to_string())), Outcome::BadPassword, reason)
            }
        };
        self.report(subject, outcome, reason, Vec::new());
    }
}

/// A pattern that is a domain's name is no glob any more.
fn note_name(rules: &mut Rules, domain: &Domain) {
    for rule in rules.note_name(domain) {
        tracing::info!(
            "the rule {rule} means the domain {} alone, and counts as no glob, since a domain has exactly this name",
            quoted(&domain.name)
        );
    }
}

/// Domains that are named where there are many.
const NAMED: usize = 3;

fn ambiguous(domains: &[&Domain]) -> String {
    let name = |domain: &&Domain| format!("{} of {}", quoted(&domain.name), domain.id.connection);
    let names: Vec<String> = domains.iter().take(NAMED).map(name).collect();
    let more = match domains.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.join(" and ");
    format!("{names}{more} are meant; give one another MAC address, or name one in a rule")
}

#[cfg(test)]
mod tests;
