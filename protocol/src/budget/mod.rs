//! Budgets that limit the announced packets for each ingress interface and MAC address.
//!
//! [`Budgets`] does no I/O and has no clock. It allocates memory only when it is created. It can therefore run in the
//! process that reads the packets, as well as in the one that announces them.
//!
//! - Packets for unknown addresses, which are in no caller's interest, share one budget on each interface.
//! - A known address has a budget of [`ADDRESS_RATE`] on each interface, and all known addresses share
//!   [`INTERFACE_RATE`] on each interface.
//! - The first packet for a known address on an interface within [`FIRST_INTERVAL`] counts against neither. A flood
//!   for some addresses therefore never suppresses a single packet for another one.
//!
//! Traffic on one interface does not change what is announced from another. One case has no guarantee: if more packets
//! than [`ADDRESS_RATE`] arrive for an address on the interface on which the genuine packets arrive, the genuine ones
//! are suppressed in the same proportion as the others.

mod bucket;
mod table;

use core::hash::BuildHasher;

use crate::MacAddr;
use bucket::Bucket;
use table::{Replaceable, Table, WAYS};

/// A time in microseconds since an arbitrary start, from a monotonic clock.
pub type Micros = u64;

/// Packets per second for each known MAC address on each interface, beyond the first.
///
/// This is several times the rate of a person's repeated attempts. Repetitions by a sender are copies.
pub const ADDRESS_RATE: u32 = 10;

/// Packets per second for all known MAC addresses together on each interface, beyond the first of each.
pub const INTERFACE_RATE: u32 = 100;

/// After a first packet for a known MAC address on an interface, the time in which no other packet is a first one, in
/// microseconds.
pub const FIRST_INTERVAL: Micros = 10_000_000;

/// The number of pairs of interface and MAC address in [`Budgets::default_size`].
const PAIRS: usize = 16_384;

/// The number of interfaces in [`Budgets::default_size`]. A host rarely has more interfaces at a time.
const INTERFACES: usize = 1024;

/// All budgets. See the [module](self).
#[derive(Debug)]
pub struct Budgets<Hasher> {
    pairs: Table<Pair, AddressBudget, Hasher>,
    interfaces: Table<u32, InterfaceBudget, Hasher>,
    /// Shared by the interfaces for which the table has no room.
    other_interfaces: InterfaceBudget,
}

impl<Hasher: BuildHasher + Clone> Budgets<Hasher> {
    /// Budgets for hosts of any usual size: about half a megabyte.
    ///
    /// `hasher` must have a random seed, so that an attacker cannot know which keys share a set.
    #[must_use]
    pub fn default_size(hasher: Hasher) -> Self {
        Self::new(PAIRS, INTERFACES, hasher)
    }

    /// Budgets for about this many pairs of interface and known address, and this many interfaces.
    #[must_use]
    pub fn new(pairs: usize, interfaces: usize, hasher: Hasher) -> Self {
        Self {
            pairs: Table::new(pairs, hasher.clone()),
            interfaces: Table::new(interfaces, hasher),
            other_interfaces: InterfaceBudget::default(),
        }
    }

    /// Whether to announce a packet for a known address. Takes the packet from its budgets.
    ///
    /// `interface` is the kernel's index of the ingress interface; 0 if unknown.
    pub fn admit_known(&mut self, interface: u32, address: MacAddr, now: Micros) -> bool {
        let Self { pairs, interfaces, other_interfaces } = self;
        let mut within_interface = || {
            let shared = interfaces.entry(interface, now).unwrap_or(other_interfaces);
            shared.known.take(INTERFACE_RATE, now)
        };
        let Some(own) = pairs.entry(Pair { interface, address }, now) else {
            // Other interfaces use the whole set: only the budget of this interface applies.
            return within_interface();
        };
        if own.allows_first(now) {
            own.not_first_until = now.saturating_add(FIRST_INTERVAL);
            return true;
        }
        let Some(remaining) = own.bucket.after_one(ADDRESS_RATE, now) else { return false };
        // A packet that the interface's budget suppresses does not count against the address's budget.
        let admitted = within_interface();
        if admitted {
            own.bucket = remaining;
        }
        admitted
    }

    /// Whether to announce a packet for an unknown address: at most `rate` a second on each interface.
    pub fn admit_unknown(&mut self, interface: u32, rate: u32, now: Micros) -> bool {
        let shared = self.interfaces.entry(interface, now).unwrap_or(&mut self.other_interfaces);
        shared.unknown.take(rate, now)
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
    /// The time until which no packet is a first one.
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
    /// than the interface of the new entry. A flood on one interface therefore displaces no entry of another
    /// interface, while the other one displaces entries of the flood; and two interfaces never displace each other's
    /// entries in turn.
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

/// The budgets that all addresses share on an interface.
#[derive(Debug, Default)]
struct InterfaceBudget {
    known: Bucket,
    unknown: Bucket,
}

impl Replaceable<u32> for InterfaceBudget {
    fn is_idle(&self, now: Micros) -> bool {
        self.known.is_full(now) && self.unknown.is_full(now)
    }

    fn displaced(_: &[(u32, Self); WAYS], _: &u32) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests;
