//! The properties by which packets are compared.

use std::hash::{BuildHasher, RandomState};

use wakevirt_protocol::{MacAddr, ParsedPacket, VlanId};

/// The properties that copies of a packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The MAC address to wake.
    pub target: MacAddr,
    /// The kernel's index of the ingress interface; 0 if it is unknown.
    pub interface: u32,
    /// The outermost VLAN.
    pub vlan: Option<VlanId>,
    /// A keyed hash of the password, so that there is no second copy of the password to erase.
    pub password: Option<u64>,
}

impl Key {
    /// Returns the key of a packet. Only keys from the same hasher can be compared.
    #[must_use]
    pub fn of(packet: &ParsedPacket, interface: u32, hasher: &RandomState) -> Self {
        let password = packet.magic.password().map(|password| hasher.hash_one(password));
        Self { target: packet.magic.target(), interface, vlan: packet.vlan, password }
    }
}
