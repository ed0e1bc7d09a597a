//! The rates of budgets.

/// How many packets are announced on each interface, in packets per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// For each known MAC address, in addition to the first packet; also for the copies of each packet
    /// ([`super::Copies`]).
    pub address: u32,
    /// For all known MAC addresses together, in addition to the first packet for each address; also, separately, for
    /// all copies of packets together.
    pub interface: u32,
    /// For all unknown MAC addresses together.
    pub unknown: u32,
}

impl Rates {
    /// The rates at which the announcer announces packets. `limit` is that of unknown addresses.
    ///
    /// The rate for an address is several times the rate at which a person repeats an attempt. Packets that a sender
    /// repeats automatically are copies, which do not count.
    #[must_use]
    pub const fn announced(limit: u32) -> Self {
        Self { address: 10, interface: 100, unknown: limit }
    }

    /// The rates at which the sniffer passes packets to the announcer, if the announcer's limit is `limit`.
    ///
    /// They are higher, so that only the announcer's decision counts unless there is a flood, and never zero, so that the
    /// announcer can log an example of what it drops.
    #[must_use]
    pub const fn passed(limit: u32) -> Self {
        const FACTOR: u32 = 4;
        let Self { address, interface, unknown } = Self::announced(limit);
        let unknown = unknown.saturating_mul(FACTOR);
        Self {
            address: address.saturating_mul(FACTOR),
            interface: interface.saturating_mul(FACTOR),
            unknown: if unknown < FACTOR { FACTOR } else { unknown },
        }
    }
}
