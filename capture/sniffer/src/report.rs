//! The counters, and their reports to the announcer.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use wakevirt_protocol::sniffer::{Counters, MAX_UDP_SOCKETS};

use crate::channel::SendOutcome;
use crate::error::Error;
use crate::ffi;
use crate::sockets::Readable;

/// The minimum interval between two reports of the counters.
const INTERVAL: Duration = Duration::from_secs(1);

/// The minimum time from a packet to the report that counts it. While the packet causes a wake, the announcer does not
/// run a second time.
const DELAY: Duration = Duration::from_millis(20);

/// The counters, and the state of their reports.
pub struct Report {
    /// The counters.
    pub counters: Counters,
    /// The kernel's drop count for each UDP socket at the time of the last report. It wraps around.
    udp_drops: [u32; MAX_UDP_SOCKETS],
    /// The time of the last report.
    sent_at: Instant,
    /// When the first packet or request since the last report arrived.
    pending: Option<Instant>,
}

impl Report {
    /// Starts counting at zero. The drop count of a socket from the service manager may be higher, because the socket
    /// can be older than the service.
    pub fn new(udp: &[(OwnedFd, u16)]) -> Result<Self, Error> {
        let mut udp_drops = [0; MAX_UDP_SOCKETS];
        for (drops, (socket, _)) in udp_drops.iter_mut().zip(udp) {
            *drops = ffi::drops(socket).map_err(Error::Receive)?;
        }
        Ok(Self { counters: Counters::default(), udp_drops, sent_at: Instant::now(), pending: None })
    }

    /// Requests a report.
    pub fn request(&mut self) {
        self.pending.get_or_insert_with(Instant::now);
    }

    /// The time until the next report; `None` if none is pending.
    pub fn due(&self) -> Option<Duration> {
        let since = self.pending?;
        Some(INTERVAL.saturating_sub(self.sent_at.elapsed()).max(DELAY.saturating_sub(since.elapsed())))
    }

    /// Records the outcome of sending the counters.
    pub fn sent(&mut self, outcome: SendOutcome) {
        self.sent_at = Instant::now();
        self.pending = (outcome == SendOutcome::Full).then_some(self.sent_at);
    }

    /// Adds the packets that the kernel dropped since the last call.
    pub fn count_drops(&mut self, sockets: &Readable<'_>) -> Result<(), Error> {
        for socket in sockets.incoming.iter().chain(sockets.outgoing) {
            let drops = ffi::take_packet_drops(socket).map_err(Error::Receive)?;
            self.counters.dropped_raw += u64::from(drops);
        }
        for ((socket, _), seen) in sockets.udp.iter().zip(&mut self.udp_drops) {
            let drops = ffi::drops(socket).map_err(Error::Receive)?;
            self.counters.dropped_udp += u64::from(drops.wrapping_sub(*seen));
            *seen = drops;
        }
        Ok(())
    }
}
