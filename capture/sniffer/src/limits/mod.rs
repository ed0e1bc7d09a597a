//! Decides which magic packets are passed to the announcer, so that a flood fills neither the socketpair nor the
//! announcer.
//!
//! The announcer decides again, with lower rates, and does not rely on this decision.

mod sorted_set;

use std::hash::RandomState;
use std::time::Instant;

use wakevirt_protocol::budget::{Budgets, Copies, CopyCheck, Micros, Rates};
use wakevirt_protocol::sniffer::{Change, MAX_ADDRESSES, MAX_EXCLUDED};
use wakevirt_protocol::{CapturedPacket, MacAddr};

use self::sorted_set::SortedSet;
use crate::error::Error;

/// The decision about a magic packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The announcer gets it.
    Pass,
    /// It is a copy of a packet that was passed.
    Duplicate,
    /// It exceeds a limit.
    Limited,
}

/// The limits, and what they depend on. Allocates memory only when it is created.
pub struct Limits {
    /// The addresses in which callers are interested.
    interest: SortedSet<MacAddr>,
    /// The interfaces from which no packets are passed.
    excluded: SortedSet<u32>,
    budgets: Budgets<RandomState>,
    copies: Copies<RandomState>,
    /// Time zero of the budgets.
    start: Instant,
}

impl Limits {
    /// Limits without an interest. `limit` is the announcer's limit of packets per second for addresses that are not of
    /// interest.
    pub fn new(limit: u32) -> Self {
        Self {
            interest: SortedSet::new(MAX_ADDRESSES),
            excluded: SortedSet::new(MAX_EXCLUDED),
            budgets: Budgets::default_size(Rates::passed(limit), RandomState::new()),
            copies: Copies::new(RandomState::new()),
            start: Instant::now(),
        }
    }

    /// Makes a change.
    ///
    /// # Errors
    /// `Error::UnexpectedMessage` if a set would contain more items than the announcer may send.
    pub fn apply(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::Limit(limit) => {
                self.budgets.set_rates(Rates::passed(*limit));
                Ok(())
            }
            Change::Interest { added, addresses } => update(&mut self.interest, *added, addresses),
            Change::Excluded { added, interfaces } => update(&mut self.excluded, *added, interfaces),
        }
    }

    /// Whether packets from the interface are dropped without being counted.
    pub fn excludes(&self, interface: u32) -> bool {
        self.excluded.contains(interface)
    }

    /// Decides about a magic packet that arrived at this time.
    pub fn decide(&mut self, captured: &CapturedPacket, now: Instant) -> Decision {
        let now =
            Micros::try_from(now.saturating_duration_since(self.start).as_micros()).unwrap_or(Micros::MAX);
        let CapturedPacket { packet, interface } = captured;
        let target = packet.magic.target();
        let properties = (target, *interface, packet.vlan, packet.magic.password(), packet.carrier.origin());
        let rate = self.budgets.rates().address;
        let within_interface = || self.budgets.admit_copy(*interface, now);
        match self.copies.check(&properties, rate, now, within_interface) {
            CopyCheck::Admitted => return Decision::Pass,
            CopyCheck::Suppressed => return Decision::Duplicate,
            CopyCheck::NotACopy => {}
        }
        let admitted = if self.interest.contains(target) {
            self.budgets.admit_known(*interface, target, now)
        } else {
            self.budgets.admit_unknown(*interface, now)
        };
        if !admitted {
            return Decision::Limited;
        }
        self.copies.admitted(&properties, now);
        Decision::Pass
    }
}

fn update<Item: Copy + Ord>(set: &mut SortedSet<Item>, added: bool, items: &[Item]) -> Result<(), Error> {
    for item in items {
        if !added {
            set.remove(*item);
        } else if !set.insert(*item) {
            return Err(Error::UnexpectedMessage);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
