//! The engine: one task that holds the domains and the rules, and makes all decisions.
//!
//! Packets, requests and updates from the hypervisors arrive through channels, and results leave through channels. The
//! task does not take a lock and never waits for a hypervisor: each wake runs in its own task.

pub mod attempt;
mod autostart;
mod calls;
mod early_requests;
mod explain;
mod history;
mod hypervisors;
pub mod index;
pub mod latency;
mod log_limiter;
mod packets;
mod pending;
mod queries;
pub mod report;
pub mod request;
mod rule_check;
pub mod state_file;
mod status;
pub mod unknown;
mod updates;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use wakevirt_protocol::Password;
use wakevirt_service::lifecycle::Watchdog;
use wakevirt_service::logs::kind;

use crate::announcer::{LostPackets, Macs, NewPacket, PasswordRequest};
use crate::engine::index::Index;
use crate::engine::report::{Decision, Unlogged};
use crate::engine::request::{Request, WakeReply};
use crate::engine::state_file::{SavedState, StateFile};
use crate::hypervisor::{Endpoint, Update};
use crate::model::{Packet, Position};
use crate::policy::Policy;
use early_requests::EarlyRequests;
use history::History;
use hypervisors::Hypervisors;
use log_limiter::LogLimiter;
use pending::Pending;
pub use status::Status;
use wakes::Wakes;

/// How often the state is saved while wakes are running: the state contains the time up to which they ran.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);
/// The delay before the state is saved after a packet that changed only the position.
const POSITION_DELAY: Duration = Duration::from_secs(1);
/// How often a save that failed is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How many times the engine lets other tasks run before it logs a decision. A receiver might be blocked by the bus.
const MAX_YIELDS: usize = 8;

/// What the engine receives.
pub struct Inputs {
    /// Packets from the announcer.
    pub packets: mpsc::Receiver<NewPacket>,
    /// Requests from authorised callers and from the daemon.
    pub requests: mpsc::Receiver<Request>,
    /// Updates from the hypervisors.
    pub updates: mpsc::Receiver<Update>,
}

/// What the engine sends.
pub struct Outputs {
    /// Each decision about a domain.
    pub decisions: broadcast::Sender<Arc<Decision>>,
    /// The MAC addresses of all known domains.
    pub macs: watch::Sender<Macs>,
    /// Connections and the number of domains.
    pub status: watch::Sender<Status>,
    /// Requests for the passwords of packets.
    pub fetches: mpsc::Sender<PasswordRequest>,
    /// Counts packets that were dropped because too many others are held.
    pub lost: LostPackets,
}

/// The engine.
pub struct Engine {
    policy: Policy,
    outputs: Outputs,
    index: Index,
    hypervisors: Hypervisors,
    early_requests: EarlyRequests,
    wakes: Wakes,
    pending: Pending,
    fetched: JoinSet<(Packet, Result<Password, String>)>,
    history: History,
    unlogged: Unlogged,
    state_file: StateFile,
    /// The hypervisors whose domains were started by `autostart` since boot.
    autostarted: Vec<String>,
    position: Position,
    /// As in [`SavedState`].
    not_before: u64,
    /// Whether the state has changed since it was last saved.
    unsaved: bool,
    saved_at: Instant,
    /// When the position first changed since the state was last saved.
    position_changed_at: Option<Instant>,
    /// Whether the rules have been compared with the domains.
    rules_checked: bool,
    log_limiter: LogLimiter,
    publish_at: Option<Instant>,
}

type Reply = oneshot::Sender<WakeReply>;

impl Engine {
    /// An engine for these hypervisors, without domains and without saved state.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, policy: Policy, outputs: Outputs) -> Self {
        Self {
            index: Index::new(policy.aliases.clone()),
            policy,
            outputs,
            hypervisors: Hypervisors::new(endpoints),
            early_requests: EarlyRequests::default(),
            wakes: Wakes::default(),
            pending: Pending::default(),
            fetched: JoinSet::new(),
            history: History::default(),
            unlogged: Unlogged::default(),
            state_file: StateFile::default(),
            autostarted: Vec::new(),
            position: Position::default(),
            not_before: 0,
            unsaved: false,
            saved_at: Instant::now(),
            position_changed_at: None,
            rules_checked: false,
            log_limiter: LogLimiter::default(),
            publish_at: None,
        }
    }

    /// Restores the state that an earlier process saved, and saves changes to this file.
    #[must_use]
    pub fn with_saved_state(mut self, state_file: StateFile, saved: SavedState) -> Self {
        self.state_file = state_file;
        self.position = saved.position;
        self.not_before = saved.not_before;
        self.autostarted = saved.autostarted;
        self.restore_packets(saved.packets);
        self.wakes.restore(saved.wakes);
        saved.abandoned.into_iter().for_each(|wake| self.report_abandoned(wake));
        self
    }

    /// Runs until all senders of the inputs are dropped and no wake is running.
    pub async fn run(mut self, mut inputs: Inputs) {
        self.publish();
        let mut watchdog = Watchdog::from_env();
        loop {
            self.spawn_wakes();
            if self.unsaved || !self.unlogged.is_empty() {
                // That is safe: each wake is saved before it starts, and if this process exits now, the next one decides
                // based on the domain's state.
                self.let_receivers_run().await;
                self.unlogged.log();
                self.save();
            }
            let timer = self.next_timer();
            let timer_at = timer.unwrap_or_else(Instant::now);
            tokio::select! {
                // Packets come last: anyone can send any number of them.
                biased;
                // Without the condition, the watchdog alone would prevent the exit below.
                () = watchdog.due(), if watchdog.is_enabled() => {
                    watchdog.notify();
                    // An idle process has no other timer.
                    self.unsaved |= self.state_file.is_removed();
                }
                Some(update) = inputs.updates.recv() => self.handle_update(update),
                Some(end) = self.wakes.join_next() => self.handle_wake_end(end),
                Some(fetched) = self.fetched.join_next() => self.handle_password(fetched),
                () = tokio::time::sleep_until(timer_at), if timer.is_some() => self.handle_timers(),
                Some(request) = inputs.requests.recv() => self.handle_or_queue(request),
                Some(NewPacket { packet, position }) = inputs.packets.recv() => {
                    self.position = position;
                    self.position_changed_at.get_or_insert_with(Instant::now);
                    self.handle_packet(packet, None);
                }
                else => return,
            }
        }
    }

    /// Lets the receivers of the last decisions run: a caller and the bus must not wait until the log is written.
    async fn let_receivers_run(&self) {
        for _ in 0..MAX_YIELDS {
            tokio::task::yield_now().await;
            // If another input arrives, this task continues before the receivers have run.
            if self.outputs.decisions.is_empty() {
                return;
            }
        }
    }

    fn handle_password(&mut self, fetched: Result<(Packet, Result<Password, String>), JoinError>) {
        match fetched {
            Ok((packet, password)) => {
                self.pending.fetched(&packet);
                self.handle_packet(packet, Some(password));
            }
            Err(error) => {
                tracing::error!(MESSAGE_ID = kind::INTERNAL_ERROR, "cannot fetch a password: {error}");
            }
        }
    }

    /// When the first timer expires.
    fn next_timer(&self) -> Option<Instant> {
        let timers = [
            self.publish_at,
            self.save_at(),
            self.next_expiry(),
            self.log_limiter.next_end(),
            self.early_requests.deadline(),
        ];
        timers.into_iter().flatten().min()
    }

    /// Runs the timers that are due. Holds expire according to CLOCK_BOOTTIME, which `expire_held` reads itself.
    fn handle_timers(&mut self) {
        let now = Instant::now();
        let is_due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        if is_due(self.publish_at) {
            self.publish();
        }
        if is_due(self.early_requests.deadline()) {
            self.handle_early_requests();
        }
        self.unsaved |= is_due(self.save_at());
        self.expire_held();
        self.log_limiter.end_intervals(now);
    }

    /// When the state is saved even if no decision has changed it.
    fn save_at(&self) -> Option<Instant> {
        let is_periodic = self.wakes.is_any_running() || self.state_file.needs_rewrite();
        let periodic = is_periodic.then(|| self.saved_at + SAVE_INTERVAL);
        let retry = self.state_file.has_failed().then(|| self.saved_at + RETRY_INTERVAL);
        let position = self.position_changed_at.map(|at| at + POSITION_DELAY);
        [periodic, retry, position].into_iter().flatten().min()
    }

    /// Saves the state if it has changed.
    fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        self.saved_at = Instant::now();
        self.position_changed_at = None;
        self.state_file.save(&SavedState {
            position: self.position.clone(),
            not_before: self.not_before,
            packets: self.pending.packets(),
            wakes: self.wakes.saved(),
            autostarted: self.autostarted.clone(),
            abandoned: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests;
