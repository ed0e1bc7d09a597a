//! What makes two packets the same to who remembers them.

use std::hash::{BuildHasher, RandomState};

use wakevirt_protocol::{MacAddr, ParsedPacket, VlanId};

/// Where a packet came in and what it asks for: address, ingress interface, VLAN and password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The MAC address that it asks to wake.
    pub target: MacAddr,
    /// The kernel's index of the ingress interface; 0 where it is not known.
    pub interface: u32,
    /// The VLAN that it was tagged for.
    pub vlan: Option<VlanId>,
    /// A keyed hash of the password, so that no second copy of it has to be wiped.
    pub password: Option<u64>,
}

impl Key {
    /// The key of this packet. Only keys by the same hasher can be compared.
    #[must_use]
    pub fn of(heard: &ParsedPacket, interface: u32, hasher: &RandomState) -> Self {
        let password = heard.magic.password().map(|password| hasher.hash_one(password));
        Self { target: heard.magic.target(), interface, vlan: heard.vlan, password }
    }
}
