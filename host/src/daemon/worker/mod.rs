//! Handles events one after the other: changes the records, and then the host.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use wakevirt_protocol::host::{Operation, Reply};
use wakevirt_service::clock;
use wakevirt_service::logs::{kind, quoted};

use super::listener::Request;
use super::qemu;
use super::spool::{Entry, Spool};
use crate::config::Config;
use crate::model::{Phase, Record, Topology};
use crate::records::{self, Change, Event, MAX_PREPARED};
use crate::state::{self, Failure, State};
use crate::system::{Part, Sysfs, System, SystemdError};

mod settle;

/// How often the QEMU processes are checked, and failed steps are repeated.
const TICK: Duration = Duration::from_secs(5);
/// How often the spool is read without a message from the hook.
const IDLE: Duration = Duration::from_secs(60);
/// The maximum number of refusals that are remembered for hooks that have not connected yet.
const MAX_REFUSALS: usize = 64;
/// The maximum number of domains that start at the same time, as far as the service remembers them.
const MAX_STARTING: usize = 4096;

/// A unit that was started in the background did not start.
#[derive(Debug)]
pub(super) struct UnitFailure {
    unit: String,
    error: SystemdError,
}

/// Owns the records and the host's state.
#[derive(Debug)]
pub(super) struct Worker {
    system: Arc<System>,
    spool: Spool,
    config: watch::Receiver<Config>,
    state: State,
    /// The domains that libvirt is starting, and when their start began. Their scopes might exist already, but libvirt
    /// has not pinned their CPUs yet, which fails if these CPUs are not available.
    starting: BTreeMap<String, Duration>,
    /// Whether the host could not be brought into the desired state, so that another attempt is necessary.
    is_pending: bool,
    /// Entries that could not be removed. They are not handled again.
    stuck: std::collections::BTreeSet<String>,
    /// The latest refusals, by entry.
    refusals: Vec<(String, Reply)>,
    unit_failures: mpsc::Sender<UnitFailure>,
}

impl Worker {
    /// Continues with this state. Returns where failures of units arrive, for [`Self::run`].
    pub(super) fn new(
        system: System,
        spool: Spool,
        config: watch::Receiver<Config>,
        state: State,
    ) -> (Self, mpsc::Receiver<UnitFailure>) {
        let (unit_failures, failures) = mpsc::channel(64);
        let prepared = state.records.iter().filter(|record| record.phase == Phase::Prepared);
        let worker = Self {
            system: Arc::new(system),
            spool,
            config,
            // The host can be in any state if the previous process was killed.
            is_pending: state.before.is_some(),
            starting: prepared.map(|record| (record.name.clone(), record.changed)).collect(),
            state,
            stuck: std::collections::BTreeSet::new(),
            refusals: Vec::new(),
            unit_failures,
        };
        (worker, failures)
    }

    /// Handles the events in the spool, and then events and checks as they come. Returns when there can be no more.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut failures: mpsc::Receiver<UnitFailure>,
    ) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = HashMap::new();
        loop {
            self.drain(&mut waiting, &mut requests).await;
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request { entry, reply }) => drop(waiting.insert(entry, reply)),
                    None => return,
                },
                Some(UnitFailure { unit, error }) = failures.recv() => self.unit_failed(&unit, &error),
                _ = ticks.tick(), if self.needs_ticks() => self.tick().await,
                // The hook could not connect, or there was no room for its event.
                () = sleep(IDLE) => {}
            }
        }
    }

    /// Handles all entries, oldest first, and answers the hooks that wait for them.
    async fn drain(
        &mut self,
        waiting: &mut HashMap<String, oneshot::Sender<Reply>>,
        requests: &mut mpsc::Receiver<Request>,
    ) {
        loop {
            let entries = self.spool.list().unwrap_or_else(|error| {
                tracing::error!(MESSAGE_ID = kind::EVENT_UNREADABLE, "cannot read the spool: {error}");
                Vec::new()
            });
            while let Ok(Request { entry, reply }) = requests.try_recv() {
                waiting.insert(entry, reply);
            }
            let Some(entry) = entries.into_iter().find(|entry| !self.stuck.contains(entry)) else { break };
            let reply = self.handle_entry(&entry).await;
            if let Err(error) = self.spool.remove(&entry) {
                tracing::error!(
                    MESSAGE_ID = kind::EVENT_UNREADABLE,
                    "cannot remove {entry} from the spool: {error}"
                );
                self.stuck.insert(entry.clone());
            }
            match waiting.remove(&entry) {
                // The hook might no longer wait.
                Some(hook) => drop(hook.send(reply)),
                None => self.remember(entry, reply),
            }
        }
        // Entries that were handled before their hooks connected.
        for (entry, hook) in waiting.drain() {
            let position = self.refusals.iter().position(|(refused, _)| *refused == entry);
            let reply = position.map_or(Reply::Done, |position| self.refusals.remove(position).1);
            drop(hook.send(reply));
        }
    }

    fn remember(&mut self, entry: String, reply: Reply) {
        if matches!(reply, Reply::Refused(_)) {
            if self.refusals.len() >= MAX_REFUSALS {
                self.refusals.remove(0);
            }
            self.refusals.push((entry, reply));
        }
    }

    async fn handle_entry(&mut self, file: &str) -> Reply {
        match self.spool.read(file) {
            Ok(entry) => self.handle(&entry).await,
            Err(error) => {
                tracing::warn!(MESSAGE_ID = kind::EVENT_UNREADABLE, "event {file} is ignored: {error}");
                self.state.add_failure(failure(None, None, format!("event {file} was ignored: {error}")));
                self.save();
                Reply::Done
            }
        }
    }

    async fn handle(&mut self, entry: &Entry) -> Reply {
        let deadline = self.deadline();
        self.note_start(entry);
        // `remember_host` reports an error, and the end of a domain does not need the topology.
        let topology = self.topology().unwrap_or_default();
        let Entry { operation, time, name, xml } = entry;
        let event = Event::read(*operation, *time, name, xml, &self.config.borrow(), &topology);
        let is_first = self.state.records.is_empty() && needs_host(&event.change);
        if is_first && let Err(error) = self.remember_host().await {
            self.fail(Some(name), None, &format!("the host is not prepared: {error}"));
            return Reply::Done;
        }
        let topology = self.state.before.clone().unwrap_or(topology);
        let is_new = records::apply(&mut self.state.records, &event, &topology);
        self.report_needs(&event, is_new);
        if self.state.before.is_some() {
            self.settle(Some((name, *operation)), deadline).await;
        }
        self.reply(name, *operation)
    }

    /// Reports what a new record cannot get because of the definition or the configuration.
    fn report_needs(&mut self, event: &Event, is_new: bool) {
        if matches!(event.change, Change::Prepare(_)) {
            self.state.failures.retain(|failure| failure.domain.as_ref() != Some(&event.name));
        }
        let record = self.state.records.iter().find(|record| is_new && record.name == event.name);
        for failure in record.map(|record| record.failures.clone()).unwrap_or_default() {
            self.report(Some(&event.name), None, &failure);
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.borrow().prepare_wait
    }

    /// The answer to the hook.
    fn reply(&self, name: &str, operation: Operation) -> Reply {
        let record = self.state.records.iter().find(|record| record.name == name);
        let reasons: Vec<&str> = record.iter().flat_map(|record| record.problems()).collect();
        match record.filter(|_| operation == Operation::Prepare && !reasons.is_empty()) {
            Some(record) if record.require => {
                let reasons = reasons.join("; ");
                Reply::Refused(format!(
                    "wakevirt: the host cannot be prepared for {}: {reasons}",
                    quoted(name)
                ))
            }
            _ => Reply::Done,
        }
    }

    /// Follows which domains are starting.
    fn note_start(&mut self, entry: &Entry) {
        if entry.operation != Operation::Prepare {
            self.starting.remove(&entry.name);
        } else if self.starting.len() < MAX_STARTING {
            self.starting.insert(entry.name.clone(), entry.time);
        }
    }

    /// What the host has. Without records, this does not need the bus.
    fn topology(&self) -> std::io::Result<Topology> {
        self.state.before.clone().map_or_else(|| Sysfs::default().topology(), Ok)
    }

    /// Stores the host's values before the first domain.
    async fn remember_host(&mut self) -> Result<(), crate::system::SystemError> {
        if self.state.before.is_none() {
            self.state.before = Some(self.system.topology().await?);
        }
        Ok(())
    }

    /// Finds the scopes of the domains that have started.
    async fn find_scopes(&mut self) {
        if self.state.before.as_ref().is_none_or(|before| before.without_systemd) {
            return;
        }
        let unknown = |record: &&mut Record| record.phase == Phase::Started && record.scope.is_none();
        for record in self.state.records.iter_mut().filter(unknown) {
            let pid = qemu::pid_of(&record.name).map(|pid| u32::try_from(pid.as_raw_nonzero().get()));
            let Some(Ok(pid)) = pid else { continue };
            match self.system.systemd().scope_of(pid).await {
                Ok(scope) => record.scope = scope,
                Err(error) => tracing::debug!("cannot find the scope of {}: {error}", quoted(&record.name)),
            }
        }
    }

    fn needs_ticks(&self) -> bool {
        self.is_pending || !self.state.records.is_empty() || !self.starting.is_empty()
    }

    /// Removes the records of domains without a QEMU process, and repeats what has failed.
    async fn tick(&mut self) {
        let now = Duration::from_micros(clock::boottime());
        self.starting.retain(|_, start| now.saturating_sub(*start) < MAX_PREPARED);
        let count = self.state.records.len();
        let names: Vec<_> =
            self.state.records.iter().map(|record| (record.name.clone(), record.uuid)).collect();
        let topology = self.state.before.clone().unwrap_or_default();
        for (name, uuid) in names.into_iter().filter(|(name, _)| qemu::pid_of(name).is_none()) {
            let event = Event { time: now, name, uuid, change: Change::Gone };
            records::apply(&mut self.state.records, &event, &topology);
        }
        if self.state.records.len() < count {
            tracing::info!(
                MESSAGE_ID = kind::DOMAIN_GONE,
                "{} domains ended without an event from libvirt",
                count - self.state.records.len()
            );
            self.is_pending = true;
        }
        if self.is_pending && self.state.before.is_some() {
            self.settle(None, self.deadline()).await;
        }
    }

    /// A unit that was started in the background failed.
    fn unit_failed(&mut self, unit: &str, error: &SystemdError) {
        let owner = self.owner(unit);
        self.fail(owner.as_deref(), Some(Part::Units), &error.to_string());
        self.state.failed_units.insert(unit.to_owned());
        self.save();
    }

    /// The domain for which a unit is started.
    fn owner(&self, unit: &str) -> Option<String> {
        let escaped =
            unit.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.')).map(|(name, _)| name)?;
        let is_owner = |name: &str| wakevirt_service::unit_name::systemd_escape(name) == escaped;
        self.state.records.iter().find(|record| is_owner(&record.name)).map(|record| record.name.clone())
    }

    /// Adds a failure to the domain's record, and reports it.
    fn fail(&mut self, domain: Option<&str>, part: Option<Part>, message: &str) {
        let record = self.state.records.iter_mut().find(|record| Some(record.name.as_str()) == domain);
        if let Some(record) = record
            && !record.failures.iter().any(|failure| failure == message)
        {
            record.failures.push(message.to_owned());
        }
        self.report(domain, part, message);
    }

    /// Reports a failure in the log and in the state file. One that does not concern a domain is reported once, although
    /// the service tries again.
    fn report(&mut self, domain: Option<&str>, part: Option<Part>, message: &str) {
        let is_known = |failure: &Failure| failure.domain.is_none() && failure.message == message;
        match domain {
            Some(name) => tracing::warn!(
                MESSAGE_ID = kind::PREPARATION_FAILED,
                WAKEVIRT_DOMAIN = name,
                "the host is not completely prepared for {}: {message}",
                quoted(name)
            ),
            None if self.state.failures.iter().any(is_known) => return,
            None => tracing::error!(
                MESSAGE_ID = kind::RESTORE_FAILED,
                "the host's state cannot be changed; trying again: {message}"
            ),
        }
        self.state.add_failure(failure(domain, part, message.to_owned()));
        self.save();
    }

    /// Writes the state file. Without it, a restarted service would not restore the host.
    fn save(&self) {
        if let Err(error) = state::write(state::FILE.as_ref(), &self.state) {
            tracing::error!(MESSAGE_ID = kind::HOST_STATE_NOT_SAVED, "{error}");
        }
    }
}

fn needs_host(change: &Change) -> bool {
    matches!(change, Change::Prepare(Some(_)) | Change::Running(Some(_)))
}

fn failure(domain: Option<&str>, part: Option<Part>, message: String) -> Failure {
    Failure { domain: domain.map(str::to_owned), part, time: clock::realtime() / 1_000_000, message }
}
