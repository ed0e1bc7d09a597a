//! What hearing and the bus share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::watch;
use wakevirt_protocol::sniffer::{Counters, Mode};

use crate::config::Settings;
use crate::error::Error;
use crate::network::links::Interface;
use crate::packets::ledger::Ledger;

/// What hearing and the bus share. Locks are held for a moment, and never across a wait.
#[derive(Debug)]
pub struct Shared {
    ledger: Mutex<Ledger>,
    /// What the sniffer counts.
    counters: Mutex<Counters>,
    /// How the sniffer hears.
    pub mode: Mode,
    /// The sequence of the last packet that was announced.
    pub announced: watch::Sender<u64>,
    /// The interfaces that are heard on, sorted by their names.
    pub interfaces: watch::Sender<Vec<Arc<Interface>>>,
}

impl Shared {
    /// Nothing heard yet, under a new epoch.
    pub fn new(settings: &Settings, mode: Mode) -> Result<Self, Error> {
        Ok(Self {
            ledger: Mutex::new(Ledger::new(settings.rules, epoch()?)),
            counters: Mutex::default(),
            mode,
            announced: watch::Sender::new(0),
            interfaces: watch::Sender::new(Vec::new()),
        })
    }

    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic ends the process; nobody can come after one.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the sniffer counts.
    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits in hexadecimal digits.
fn epoch() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    // So few bytes come whole, once the kernel has any: getrandom(2).
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| Error::Random(io::Error::from(error)))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
