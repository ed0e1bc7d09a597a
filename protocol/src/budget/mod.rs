//! Budgets that limit the announced packets for each ingress interface and MAC address.
//!
//! [`Budgets`] performs no I/O and has no clock. It allocates memory only when it is created. It can therefore run in
//! the process that reads the packets or in the process that announces them.
//!
//! - An address is known if it is in a caller's interest. On each interface, the packets for all unknown addresses
//!   share one budget, [`Rates::unknown`].
//! - A known address has a budget of [`Rates::address`] on each interface, and all known addresses share
//!   [`Rates::interface`] on each interface.
//! - The first packet for a known address on an interface within [`FIRST_INTERVAL`] counts against neither budget. A
//!   flood of packets for some addresses therefore never suppresses an isolated packet for another address.
//!
//! As long as the tables have room, traffic on one interface does not affect which packets from another interface are
//! announced. Genuine packets are not protected in one case: if packets for an address arrive faster than
//! [`Rates::address`] on the interface on which the genuine packets arrive, the genuine packets are suppressed in the
//! same proportion as the others.
//!
//! [`Copies`] detects copies of admitted packets, which do not count against these budgets. Instead, the copies of each
//! packet have a budget of [`Rates::address`], and on each interface, all copies share another one of
//! [`Rates::interface`].

mod bucket;
mod copies;
mod rates;
mod table;

use core::hash::BuildHasher;

use crate::MacAddr;
use bucket::Bucket;
pub use copies::{Copies, CopyCheck};
pub use rates::Rates;
use table::{Replaceable, Table, WAYS};

/// A time in microseconds since an arbitrary start, from a monotonic clock.
pub type Micros = u64;

/// The time after a first packet for a known MAC address on an interface during which no other packet counts as a first
/// packet, in microseconds.
pub const FIRST_INTERVAL: Micros = 10_000_000;

/// The number of interface and MAC address pairs in [`Budgets::default_size`].
const PAIRS: usize = 16_384;

/// The number of interfaces in [`Budgets::default_size`]. A host rarely has more.
const INTERFACES: usize = 1024;

/// All budgets. See the [module](self).
#[derive(Debug)]
pub struct Budgets<Hasher> {
    rates: Rates,
    pairs: Table<Pair, AddressBudget, Hasher>,
    interfaces: Table<u32, InterfaceBudget, Hasher>,
    /// Shared by the interfaces for which the table has no room.
    other_interfaces: InterfaceBudget,
}

impl<Hasher: BuildHasher + Clone> Budgets<Hasher> {
    /// Creates budgets that are large enough for a typical host and use about half a megabyte of memory.
    ///
    /// `hasher` must have a random seed, so that an attacker cannot know which keys share a set.
    #[must_use]
    pub fn default_size(rates: Rates, hasher: Hasher) -> Self {
        Self::new(PAIRS, INTERFACES, rates, hasher)
    }

    /// Creates budgets for about this many pairs of interface and known address, and this many interfaces.
    #[must_use]
    pub fn new(pairs: usize, interfaces: usize, rates: Rates, hasher: Hasher) -> Self {
        Self {
            rates,
            pairs: Table::new(pairs, hasher.clone()),
            interfaces: Table::new(interfaces, hasher),
            other_interfaces: InterfaceBudget::default(),
        }
    }

    /// The rates.
    #[must_use]
    pub const fn rates(&self) -> Rates {
        self.rates
    }

    /// Replaces the rates.
    pub const fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// Returns whether to announce a packet for a known address, and counts an announced packet against its budgets.
    ///
    /// `interface` is the kernel's index of the ingress interface, or 0 if unknown.
    pub fn admit_known(&mut self, interface: u32, address: MacAddr, now: Micros) -> bool {
        let Self { rates, pairs, interfaces, other_interfaces } = self;
        let mut within_interface = || {
            let shared = interfaces.entry(interface, now).unwrap_or(other_interfaces);
            shared.known.take(rates.interface, now)
        };
        let Some(own) = pairs.entry(Pair { interface, address }, now) else {
            // Entries of other interfaces fill the set, so only the interface's budget applies.
            return within_interface();
        };
        if own.allows_first(now) {
            own.not_first_until = now.saturating_add(FIRST_INTERVAL);
            return true;
        }
        let Some(remaining) = own.bucket.after_one(rates.address, now) else { return false };
        // A packet that the interface's budget suppresses does not count against the address's budget.
        let admitted = within_interface();
        if admitted {
            own.bucket = remaining;
        }
        admitted
    }

    /// Returns whether to announce a packet for an unknown address, and counts an announced packet against the budget.
    pub fn admit_unknown(&mut self, interface: u32, now: Micros) -> bool {
        let shared = self.interfaces.entry(interface, now).unwrap_or(&mut self.other_interfaces);
        shared.unknown.take(self.rates.unknown, now)
    }

    /// Returns whether to announce a copy of an admitted packet, and counts an announced copy against the budget that
    /// all copies on the interface share.
    pub fn admit_copy(&mut self, interface: u32, now: Micros) -> bool {
        let shared = self.interfaces.entry(interface, now).unwrap_or(&mut self.other_interfaces);
        shared.copies.take(self.rates.interface, now)
    }
}

/// The key of an address budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pair {
    interface: u32,
    address: MacAddr,
}

impl Default for Pair {
    fn default() -> Self {
        Self { interface: 0, address: MacAddr::new([0; 6]) }
    }
}

/// The budget of a known address on an interface.
#[derive(Debug, Default)]
struct AddressBudget {
    /// Until this time, no packet counts as a first packet.
    not_first_until: Micros,
    bucket: Bucket,
}

impl AddressBudget {
    const fn allows_first(&self, now: Micros) -> bool {
        self.not_first_until <= now
    }
}

impl Replaceable<Pair> for AddressBudget {
    fn is_idle(&self, now: Micros) -> bool {
        self.allows_first(now) && self.bucket.is_full(now)
    }

    /// The oldest entry of the interface with the most entries in the set, if that interface has at least two more
    /// entries than the interface of the new entry. A flood on one interface therefore does not displace entries of
    /// other interfaces, whereas their packets displace entries of the flood. Two interfaces never displace each
    /// other's entries in turn.
    fn displaced(slots: &[(Pair, Self); WAYS], by: &Pair) -> Option<usize> {
        let count = |interface| slots.iter().filter(|(pair, _)| pair.interface == interface).count();
        let largest =
            slots.iter().map(|(pair, _)| pair.interface).max_by_key(|interface| count(*interface))?;
        if count(largest) <= count(by.interface) + 1 {
            return None;
        }
        let entries = slots.iter().enumerate().filter(|(_, (pair, _))| pair.interface == largest);
        entries.min_by_key(|(_, (_, entry))| entry.not_first_until).map(|(at, _)| at)
    }
}

/// The budgets that the packets on an interface share.
#[derive(Debug, Default)]
struct InterfaceBudget {
    known: Bucket,
    unknown: Bucket,
    copies: Bucket,
}

impl Replaceable<u32> for InterfaceBudget {
    fn is_idle(&self, now: Micros) -> bool {
        [self.known, self.unknown, self.copies].iter().all(|bucket| bucket.is_full(now))
    }

    fn displaced(_: &[(u32, Self); WAYS], _: &u32) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests;
