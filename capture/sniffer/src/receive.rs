//! The main loop: receives packets and reports them.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakevirt_protocol::frame::{Rejection, SEARCHED};
use wakevirt_protocol::sniffer::{Counters, FromSniffer, ToSniffer};

use crate::channel::{Channel, SendOutcome};
use crate::delivery::{self, CapturedPackets};
use crate::error::Error;
use crate::ffi::{self, Envelope};
use crate::sockets::Sockets;

/// The maximum number of packets that the sniffer reads from one socket before it reads from the next one.
const BATCH: usize = 64;

/// The minimum interval between two reports of the counters.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Receives packets until the announcer exits or a socket fails.
///
/// Packet sockets are read before UDP sockets: if both receive a datagram, the frame is reported first, because only
/// the frame contains the sender's MAC address.
pub(super) fn run(channel: Channel, sockets: &Sockets) -> Result<Infallible, Error> {
    let mut sniffer = Sniffer { channel, sockets, report: Report::new(sockets)? };
    let mut fds = vec![PollFd::new(&channel, PollFlags::IN)];
    let read = sockets.incoming.iter().chain(&sockets.outgoing).chain(sockets.udp.iter().map(|(fd, _)| fd));
    fds.extend(read.map(|fd| PollFd::new(fd, PollFlags::IN)));
    loop {
        wait(&mut fds, sniffer.report.due())?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            sniffer.handle_messages()?;
        }
        for packets in sockets.incoming.iter().chain(&sockets.outgoing) {
            if ready.next() == Some(true) {
                sniffer.receive_frames(packets)?;
            }
        }
        for (socket, port) in &sockets.udp {
            if ready.next() == Some(true) {
                sniffer.receive_datagrams(socket, *port)?;
            }
        }
        sniffer.send_report()?;
    }
}

fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<(), Error> {
    // At most one second, which always fits in the type.
    let limit = limit.map(|limit| Timespec::try_from(limit).unwrap_or_default());
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Error::Wait(error.into())),
    }
}

struct Sniffer<'a> {
    channel: Channel,
    sockets: &'a Sockets,
    report: Report,
}

impl Sniffer<'_> {
    /// Handles the announcer's pending messages.
    fn handle_messages(&mut self) -> Result<(), Error> {
        while let Some(message) = self.channel.receive()? {
            let (slot, interface) = match message {
                ToSniffer::Outgoing { slot, interface } => (slot, interface),
                ToSniffer::Report => {
                    self.report.request();
                    continue;
                }
                ToSniffer::Start(_) => return Err(Error::UnexpectedMessage),
            };
            let socket = self.sockets.outgoing.get(usize::from(slot)).ok_or(Error::UnexpectedMessage)?;
            match ffi::bind_packet_socket(socket, interface) {
                Ok(()) => {}
                // The interface was removed. The announcer sends another message when it reappears.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(Error::PacketSocket { action: "bind", error }),
            }
        }
        Ok(())
    }

    fn receive_frames(&mut self, socket: impl AsFd) -> Result<(), Error> {
        let mut buffer = [0; SEARCHED];
        for _ in 0..BATCH {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let parsed = delivery::frame(&envelope, payload, &self.sockets.ports);
            self.record(parsed, envelope.truncated)?;
        }
        Ok(())
    }

    fn receive_datagrams(&mut self, socket: impl AsFd, port: u16) -> Result<(), Error> {
        let mut buffer = [0; SEARCHED];
        for _ in 0..BATCH {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let parsed = delivery::datagram(&envelope, payload, port, &self.sockets.ports);
            self.record(parsed, envelope.truncated)?;
        }
        Ok(())
    }

    /// Reports accepted packets, and counts rejected and truncated ones.
    fn record(
        &mut self,
        parsed: Result<CapturedPackets<'_>, Rejection>,
        truncated: bool,
    ) -> Result<(), Error> {
        self.report.request();
        let Ok(packets) = parsed else {
            self.report.counters.malformed += 1;
            return Ok(());
        };
        self.report.counters.truncated += u64::from(truncated);
        for packet in packets {
            if self.channel.send(&FromSniffer::Packet(packet))? == SendOutcome::Full {
                self.report.counters.dropped_channel += 1;
            }
        }
        Ok(())
    }

    fn send_report(&mut self) -> Result<(), Error> {
        if self.report.due() == Some(Duration::ZERO) {
            self.report.count_drops(self.sockets)?;
            let outcome = self.channel.send(&FromSniffer::Counters(self.report.counters))?;
            self.report.sent(outcome);
        }
        Ok(())
    }
}

/// Receives a datagram, if the socket has one.
fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Envelope>, Error> {
    loop {
        match ffi::receive(&socket, buffer) {
            Ok(envelope) => return Ok(Some(envelope)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A socket that is bound to an interface reports once that the interface went down, and remains usable
            // (packet(7)).
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => return Err(Error::Receive(error)),
        }
    }
}

/// The counters, and the state of their reports.
struct Report {
    counters: Counters,
    /// The kernel's drop count for each UDP socket at the time of the last report. It wraps around.
    udp_drops: Vec<u32>,
    /// The time of the last report.
    sent_at: Instant,
    /// Whether a packet or a request has arrived since the last report.
    pending: bool,
}

impl Report {
    /// Starts counting at zero. The drop count of a socket from the service manager may be higher, because the socket
    /// can be older than the service.
    fn new(sockets: &Sockets) -> Result<Self, Error> {
        let udp_drops = sockets.udp.iter().map(|(socket, _)| ffi::drops(socket)).collect::<Result<_, _>>();
        let udp_drops = udp_drops.map_err(Error::Receive)?;
        Ok(Self { counters: Counters::default(), udp_drops, sent_at: Instant::now(), pending: false })
    }

    /// Requests a report.
    const fn request(&mut self) {
        self.pending = true;
    }

    /// The time until the next report; `None` if none is pending.
    fn due(&self) -> Option<Duration> {
        self.pending.then(|| REPORT_INTERVAL.saturating_sub(self.sent_at.elapsed()))
    }

    fn sent(&mut self, outcome: SendOutcome) {
        self.sent_at = Instant::now();
        self.pending = outcome == SendOutcome::Full;
    }

    fn count_drops(&mut self, sockets: &Sockets) -> Result<(), Error> {
        for socket in sockets.incoming.iter().chain(&sockets.outgoing) {
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
