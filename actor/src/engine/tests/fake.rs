//! A simulated hypervisor for tests.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use uuid::Uuid;

use super::uuid;
use crate::hypervisor::session::{self, Session};
use crate::hypervisor::{AttemptFuture, AttemptRequest, Hypervisor, HypervisorError};
use crate::model::{State, Stop};

/// The state of a hypervisor that can block the start of domains. Domains are numbered.
pub(super) struct Fake {
    states: Mutex<HashMap<Uuid, State>>,
    starts: Mutex<Vec<Uuid>>,
    calls: Mutex<Vec<&'static str>>,
    state_after_start: Mutex<State>,
    /// Why domains that are off were switched off.
    stop: Mutex<Stop>,
    disconnected: AtomicBool,
    /// Whether a daemon that the domains need is missing.
    unready: AtomicBool,
    /// Domains that do not start until [`Fake::release`].
    blocked: Mutex<BTreeSet<Uuid>>,
    released: Condvar,
    /// The number of calls to `state`.
    queries: AtomicUsize,
}

impl Fake {
    pub(super) fn new(states: &[(u8, State)], blocked: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            states: Mutex::new(states.iter().map(|(number, state)| (uuid(*number), *state)).collect()),
            starts: Mutex::default(),
            calls: Mutex::default(),
            state_after_start: Mutex::new(State::Running),
            stop: Mutex::new(Stop::Unknown),
            disconnected: AtomicBool::new(false),
            unready: AtomicBool::new(false),
            blocked: Mutex::new(blocked.iter().map(|number| uuid(*number)).collect()),
            released: Condvar::new(),
            queries: AtomicUsize::new(0),
        })
    }

    /// Unblocks the starts of domains.
    pub(super) fn release(&self) {
        self.blocked.lock().unwrap().clear();
        self.released.notify_all();
    }

    /// Makes all further calls fail.
    pub(super) fn disconnect(&self) {
        self.disconnected.store(true, Ordering::SeqCst);
    }

    /// Makes starts fail because a daemon is missing, or stops this.
    pub(super) fn set_unready(&self, unready: bool) {
        self.unready.store(unready, Ordering::SeqCst);
    }

    /// Waits until this many starts have been requested.
    pub(super) async fn wait_for_starts(&self, number: usize) {
        while self.starts().len() < number {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the state has been queried this many times.
    pub(super) async fn wait_for_queries(&self, number: usize) {
        while self.queries.load(Ordering::SeqCst) < number {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn set(&self, number: u8, state: State) {
        self.states.lock().unwrap().insert(uuid(number), state);
    }

    pub(super) fn set_state_after_start(&self, state: State) {
        *self.state_after_start.lock().unwrap() = state;
    }

    pub(super) fn set_stop(&self, stop: Stop) {
        *self.stop.lock().unwrap() = stop;
    }

    pub(super) fn state_of(&self, uuid: Uuid) -> State {
        self.states.lock().unwrap().get(&uuid).copied().unwrap_or(State::ShutOff)
    }

    /// The domains in the order of their starts.
    pub(super) fn starts(&self) -> Vec<Uuid> {
        self.starts.lock().unwrap().clone()
    }

    /// The calls that resumed or woke up a domain.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    fn run_domain(&self, call: &'static str, uuid: Uuid) -> Result<(), HypervisorError> {
        self.check_connection()?;
        self.calls.lock().unwrap().push(call);
        self.states.lock().unwrap().insert(uuid, State::Running);
        Ok(())
    }

    fn check_connection(&self) -> Result<(), HypervisorError> {
        if self.is_alive() { Ok(()) } else { Err(HypervisorError::NotConnected) }
    }
}

impl Session for Fake {
    fn state(&self, uuid: Uuid) -> Result<State, HypervisorError> {
        self.check_connection()?;
        let state = self.state_of(uuid);
        self.queries.fetch_add(1, Ordering::SeqCst);
        Ok(state)
    }

    fn last_stop(&self, _: Uuid) -> Result<Stop, HypervisorError> {
        self.check_connection()?;
        Ok(*self.stop.lock().unwrap())
    }

    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        // Read first: a test makes the fake ready after it has seen the call.
        let is_unready = self.unready.load(Ordering::SeqCst);
        self.starts.lock().unwrap().push(uuid);
        if is_unready {
            return Err(HypervisorError::Daemon {
                action: "start the domain",
                daemon: "virtnetworkd".to_owned(),
                message: "No such file or directory".to_owned(),
            });
        }
        let blocked = self.blocked.lock().unwrap();
        drop(self.released.wait_while(blocked, |blocked| blocked.contains(&uuid)).unwrap());
        let before = self.state_of(uuid);
        if !matches!(before, State::ShutOff | State::Saved) {
            self.check_connection()?;
            return Err(HypervisorError::Call {
                action: "start the domain",
                message: format!("it is {before}"),
                advice: "",
            });
        }
        let after = *self.state_after_start.lock().unwrap();
        self.states.lock().unwrap().insert(uuid, after);
        self.check_connection()
    }

    fn resume(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.run_domain("resume", uuid)
    }

    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.run_domain("wake up", uuid)
    }

    fn is_alive(&self) -> bool {
        !self.disconnected.load(Ordering::SeqCst)
    }
}

/// A connection to the hypervisor. Each attempt runs in its own thread.
pub(super) struct FakeConnection(pub Arc<Fake>);

impl Hypervisor for FakeConnection {
    fn attempt(&self, request: AttemptRequest) -> AttemptFuture {
        let fake = Arc::clone(&self.0);
        let (work, result) = session::queue(request);
        std::thread::spawn(move || work(&*fake));
        result
    }

    fn queued(&self) -> usize {
        0
    }

    fn is_alive(&self) -> bool {
        Session::is_alive(&*self.0)
    }
}
