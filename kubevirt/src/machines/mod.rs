//! The virtual machines of a cluster.

mod machine;
pub(crate) mod object;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use machine::{Machine, domain};

/// The maximum number of virtual machines. Each of them takes about 1 kB of memory.
pub(crate) const MAX_MACHINES: usize = 50_000;

/// The known virtual machines, and the watch that reports each of them.
#[derive(Debug)]
pub(crate) struct Machines {
    all: Mutex<HashMap<Uuid, (usize, Machine)>>,
    /// Increases with each change.
    changes: watch::Sender<u64>,
}

impl Machines {
    pub fn new() -> Self {
        Self { all: Mutex::default(), changes: watch::Sender::new(0) }
    }

    pub fn get(&self, uuid: Uuid) -> Option<Machine> {
        self.all().get(&uuid).map(|(_, machine)| machine.clone())
    }

    /// Adds or replaces a virtual machine. Returns false if there are too many.
    pub fn put(&self, watch: usize, machine: Machine) -> bool {
        let mut all = self.all();
        if all.len() >= MAX_MACHINES && !all.contains_key(&machine.uuid) {
            return false;
        }
        all.insert(machine.uuid, (watch, machine));
        drop(all);
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
        true
    }

    /// Removes a virtual machine. Returns whether it was known.
    pub fn remove(&self, uuid: Uuid) -> bool {
        let removed = self.all().remove(&uuid).is_some();
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
        removed
    }

    /// Removes the virtual machines of a watch that it does not list, and returns them.
    pub fn retain(&self, watch: usize, listed: &HashSet<Uuid>) -> Vec<Uuid> {
        let all = self.all();
        let gone = all.iter().filter(|(uuid, (of, _))| *of == watch && !listed.contains(uuid));
        let gone: Vec<Uuid> = gone.map(|(uuid, _)| *uuid).collect();
        drop(all);
        for uuid in &gone {
            self.remove(*uuid);
        }
        gone
    }

    /// Receives a value after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Uuid, (usize, Machine)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The namespaces whose names are in use, so that each is stored once.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The stored name that equals this one.
    pub fn intern(&mut self, name: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        self.0.insert(Arc::clone(name));
        Arc::clone(name)
    }
}
