//! The sniffer's counters.

use serde::{Deserialize, Serialize};

use crate::Transport;

/// The sniffer's counters since it started. They never decrease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames and datagrams that passed the kernel's filter and contained no magic packet.
    pub malformed: u64,
    /// Frames and datagrams with a magic packet that were longer than the part that is searched
    /// ([`crate::frame::SEARCHED`]): the rest may have contained more magic packets.
    pub truncated: u64,
    /// Frames that the kernel dropped because the packet sockets' buffers were full.
    pub dropped_raw: u64,
    /// Datagrams that the kernel dropped because the UDP sockets' buffers were full.
    pub dropped_udp: u64,
    /// Magic packets that were dropped because the announcer was too slow to receive them.
    pub dropped_channel: u64,
    /// Packets in Ethernet frames that the sniffer did not pass to the announcer.
    pub ethernet: Suppressed,
    /// The same for IPv4 datagrams.
    pub udp4: Suppressed,
    /// The same for IPv6 datagrams.
    pub udp6: Suppressed,
}

/// Magic packets of one transport that the sniffer did not pass to the announcer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// Copies of packets that it had passed.
    pub duplicates: u64,
    /// Packets that exceeded a limit.
    pub limited: u64,
}

impl Suppressed {
    const fn can_follow(&self, earlier: &Self) -> bool {
        self.duplicates >= earlier.duplicates && self.limited >= earlier.limited
    }
}

impl Counters {
    /// The number of frames and datagrams that the kernel dropped. The sum saturates, because a compromised sniffer can
    /// send any numbers.
    #[must_use]
    pub const fn dropped_by_kernel(&self) -> u64 {
        self.dropped_raw.saturating_add(self.dropped_udp)
    }

    /// Whether these counters can follow the earlier ones: no counter has decreased.
    #[must_use]
    pub const fn can_follow(&self, earlier: &Self) -> bool {
        self.malformed >= earlier.malformed
            && self.truncated >= earlier.truncated
            && self.dropped_raw >= earlier.dropped_raw
            && self.dropped_udp >= earlier.dropped_udp
            && self.dropped_channel >= earlier.dropped_channel
            && self.ethernet.can_follow(&earlier.ethernet)
            && self.udp4.can_follow(&earlier.udp4)
            && self.udp6.can_follow(&earlier.udp6)
    }

    /// The packets of a transport that the sniffer did not pass to the announcer.
    #[must_use]
    pub const fn suppressed(&self, transport: Transport) -> Suppressed {
        match transport {
            Transport::Ethernet => self.ethernet,
            Transport::Udp4 => self.udp4,
            Transport::Udp6 => self.udp6,
        }
    }

    /// The same, to count.
    pub const fn suppressed_mut(&mut self, transport: Transport) -> &mut Suppressed {
        match transport {
            Transport::Ethernet => &mut self.ethernet,
            Transport::Udp4 => &mut self.udp4,
            Transport::Udp6 => &mut self.udp6,
        }
    }
}
