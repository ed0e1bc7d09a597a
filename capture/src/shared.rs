//! The state that the bus interface and the reader of the sniffer's messages share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::{Notify, watch};
use wakevirt_protocol::sniffer::{Counters, Mode};

use crate::config::Settings;
use crate::error::Error;
use crate::network::links::Interface;
use crate::packets::ledger::Ledger;

/// The shared state. Locks are held briefly, and never across an await.
#[derive(Debug)]
pub struct Shared {
    ledger: Mutex<Ledger>,
    /// The sniffer's most recent counters.
    counters: Mutex<Counters>,
    /// How the sniffer receives packets.
    pub mode: Mode,
    /// The sequence of the most recently announced packet.
    pub announced: watch::Sender<u64>,
    /// Notified when the interest of a caller has changed.
    pub interest: Notify,
    /// The interfaces on which packets are captured, sorted by name.
    pub interfaces: watch::Sender<Vec<Arc<Interface>>>,
}

impl Shared {
    /// Creates the initial state, with a new epoch.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn new(settings: &Settings, mode: Mode) -> Result<Self, Error> {
        Ok(Self {
            ledger: Mutex::new(Ledger::new(settings.ledger, epoch()?)),
            counters: Mutex::default(),
            mode,
            announced: watch::Sender::new(0),
            interest: Notify::new(),
            interfaces: watch::Sender::new(Vec::new()),
        })
    }

    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic aborts the process, so no task can see a poisoned lock.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sniffer's most recent counters.
    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns 128 random bits as hexadecimal digits.
fn epoch() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    // For a request of up to 256 bytes, getrandom(2) never returns fewer.
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| Error::Random(io::Error::from(error)))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
