//! The state that the bus interface and the reader of the sniffer share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::watch;
use wakevirt_protocol::sniffer::{Counters, Mode};

use crate::config::Settings;
use crate::error::Error;
use crate::network::links::Interface;
use crate::packets::ledger::Ledger;

/// The shared state. Locks are held briefly, and never across an await.
#[derive(Debug)]
pub struct Shared {
    ledger: Mutex<Ledger>,
    /// The last counters of the sniffer.
    counters: Mutex<Counters>,
    /// How the sniffer receives packets.
    pub mode: Mode,
    /// The sequence of the last announced packet.
    pub announced: watch::Sender<u64>,
    /// The interfaces on which packets are captured, sorted by name.
    pub interfaces: watch::Sender<Vec<Arc<Interface>>>,
}

impl Shared {
    /// The initial state, with a new epoch.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn new(settings: &Settings, mode: Mode) -> Result<Self, Error> {
        Ok(Self {
            ledger: Mutex::new(Ledger::new(settings.ledger, epoch()?)),
            counters: Mutex::default(),
            mode,
            announced: watch::Sender::new(0),
            interfaces: watch::Sender::new(Vec::new()),
        })
    }

    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic aborts the process, so no task can see a poisoned lock.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last counters of the sniffer.
    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns 128 random bits in hexadecimal digits.
fn epoch() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    // getrandom(2) never returns fewer bytes for a request of up to 256.
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| Error::Random(io::Error::from(error)))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
