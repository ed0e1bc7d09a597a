//! How many magic packets may go on: budgets by ingress interface and MAC address.
//!
//! [`Budgets`] does no I/O and has no clock. It allocates when it is made, and never afterwards,
//! whatever comes. So it can run where the packets are read as well as where they are announced.
//!
//! - Packets for addresses that nobody has named ("strangers") share one budget for each interface.
//! - A known address has a budget of [`ADDRESS_RATE`] on each interface, and all known addresses
//!   share [`INTERFACE_RATE`] on each interface.
//! - The first packet for a known address on an interface within [`FIRST`] is outside of both. So a
//!   flood for some addresses never holds back a single packet for another one.
//!
//! Nothing on one interface changes what goes on from another. What is not guaranteed: where
//! somebody sends more than [`ADDRESS_RATE`] for an address on the interface where its true packets
//! arrive, the true ones are held back in the same proportion as the others.

mod bucket;
mod table;

use core::hash::BuildHasher;

use crate::MacAddr;
use bucket::Bucket;
use table::{Table, Tenant, WAYS};

/// A point in time, in microseconds since any fixed one, by a clock that does not go back.
pub type Micros = u64;

/// Packets per second for each known MAC address on each interface, beyond the first.
///
/// Several times what a person's repeated attempts come to; a sender's own repetitions are copies.
pub const ADDRESS_RATE: u32 = 10;

/// Packets per second for all known MAC addresses together on each interface, beyond the first of each.
pub const INTERFACE_RATE: u32 = 100;

/// For how long a packet for a known MAC address on an interface is no longer the first, in microseconds.
pub const FIRST: Micros = 10_000_000;

/// Pairs of interface and MAC address that [`Budgets::default_size`] has room for.
const PAIRS: usize = 16_384;

/// Interfaces that [`Budgets::default_size`] has room for. The kernel's own number of them bounds how
/// many there are at a time.
const INTERFACES: usize = 1024;

/// All budgets. See the [module](self).
#[derive(Debug)]
pub struct Budgets<Hasher> {
    pairs: Table<Pair, AddressBudget, Hasher>,
    interfaces: Table<u32, InterfaceBudget, Hasher>,
    /// What the interfaces share that the table has no room for.
    other_interfaces: InterfaceBudget,
}

impl<Hasher: BuildHasher + Clone> Budgets<Hasher> {
    /// Budgets for hosts of any usual size: about half a megabyte.
    ///
    /// `hasher` is to be seeded at random: nobody may know which keys share a place.
    #[must_use]
    pub fn default_size(hasher: Hasher) -> Self {
        Self::new(PAIRS, INTERFACES, hasher)
    }

    /// Budgets with room for about so many pairs of interface and known address, and so many interfaces.
    #[must_use]
    pub fn new(pairs: usize, interfaces: usize, hasher: Hasher) -> Self {
        Self {
            pairs: Table::new(pairs, hasher.clone()),
            interfaces: Table::new(interfaces, hasher),
            other_interfaces: InterfaceBudget::default(),
        }
    }

    /// Whether a packet for a known address may go on.
    ///
    /// `interface` is the kernel's index of the ingress interface; 0 where it is not known.
    pub fn admit_known(&mut self, interface: u32, address: MacAddr, now: Micros) -> bool {
        let Self { pairs, interfaces, other_interfaces } = self;
        let mut within_interface = || {
            let shared = interfaces.entry(interface, now).unwrap_or(other_interfaces);
            shared.known.take(INTERFACE_RATE, now)
        };
        let Some(own) = pairs.entry(Pair { interface, address }, now) else {
            // As much is going on elsewhere: what is left is the interface's budget.
            return within_interface();
        };
        if own.allows_first(now) {
            own.not_first_until = now.saturating_add(FIRST);
            return true;
        }
        let Some(rest) = own.bucket.after_one(ADDRESS_RATE, now) else { return false };
        // What the interface's budget holds back does not use up the address's own.
        let admitted = within_interface();
        if admitted {
            own.bucket = rest;
        }
        admitted
    }

    /// Whether a packet for an address that nobody has named may go on: `rate` a second on each interface.
    pub fn admit_unknown(&mut self, interface: u32, rate: u32, now: Micros) -> bool {
        let shared = self.interfaces.entry(interface, now).unwrap_or(&mut self.other_interfaces);
        shared.strangers.take(rate, now)
    }
}

/// What one budget is for.
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
    /// Until when a packet is not the first in its time.
    not_first_until: Micros,
    bucket: Bucket,
}

impl AddressBudget {
    const fn allows_first(&self, now: Micros) -> bool {
        self.not_first_until <= now
    }
}

impl Tenant<Pair> for AddressBudget {
    fn is_idle(&self, now: Micros) -> bool {
        self.allows_first(now) && self.bucket.is_full(now)
    }

    /// The oldest of the interface that has most of the entries here, if that has more than one more
    /// than the new one's. So a flood on one interface displaces none of another's, while the other
    /// displaces the flood's; and two interfaces never displace each other's in turn.
    fn displaced(slots: &[(Pair, Self); WAYS], by: &Pair) -> Option<usize> {
        let share = |interface| slots.iter().filter(|(pair, _)| pair.interface == interface).count();
        let heaviest = slots.iter().map(|(pair, _)| pair.interface).max_by_key(|on| share(*on))?;
        if share(heaviest) <= share(by.interface) + 1 {
            return None;
        }
        let of_heaviest = slots.iter().enumerate().filter(|(_, (pair, _))| pair.interface == heaviest);
        of_heaviest.min_by_key(|(_, (_, entry))| entry.not_first_until).map(|(at, _)| at)
    }
}

/// What all addresses share on an interface.
#[derive(Debug, Default)]
struct InterfaceBudget {
    known: Bucket,
    strangers: Bucket,
}

impl Tenant<u32> for InterfaceBudget {
    fn is_idle(&self, now: Micros) -> bool {
        self.known.is_full(now) && self.strangers.is_full(now)
    }

    fn displaced(_: &[(u32, Self); WAYS], _: &u32) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests;
