//! The main loop: receives packets and reports them.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakevirt_protocol::frame::{Ports, Rejection, SEARCHED};
use wakevirt_protocol::sniffer::{Counters, FromSniffer, MAX_OUTGOING, MAX_UDP_SOCKETS, ToSniffer};

use crate::channel::{Channel, SendOutcome};
use crate::delivery::{self, CapturedPackets};
use crate::error::Error;
use crate::ffi::{self, Envelope, Ring};
use crate::sockets::Sockets;

/// The maximum number of packets that the sniffer reads from one socket before it reads from the next one.
const BATCH: usize = 64;
/// The same for the ring, from which reading a frame takes no system call.
const RING_BATCH: usize = 1024;
/// If the ring contained at least this many frames, more are arriving fast. Then the sniffer pauses, so that it handles
/// many frames each time that it runs. A single frame is handled at once.
const PAUSE_AFTER: usize = 4;
/// How long it pauses: the ring must hold the frames that arrive meanwhile.
const PAUSE: Duration = Duration::from_micros(500);

/// The socketpair, the socket for incoming frames, those for outgoing frames and the UDP sockets.
const MAX_SOCKETS: usize = 2 + MAX_OUTGOING + MAX_UDP_SOCKETS;

/// The minimum interval between two reports of the counters.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Receives packets until the announcer exits or a socket fails.
///
/// Neither this function nor a failure report allocates memory: the sandbox forbids the system calls with which the C
/// library gets more from the kernel.
///
/// Packet sockets are read before UDP sockets: if both receive a datagram, the frame is reported first, because only
/// the frame contains the sender's MAC address.
pub(super) fn run(channel: Channel, sockets: &mut Sockets) -> Result<Infallible, Error> {
    let Sockets { incoming, outgoing, udp, ports } = sockets;
    let (incoming, mut ring) = incoming.as_mut().map(|it| (&it.socket, &mut it.ring)).unzip();
    let sockets = Readable { incoming, outgoing, udp };
    let mut sniffer = Sniffer { channel, ports, sockets, report: Report::new(udp)? };
    let read = incoming.into_iter().chain(&*outgoing).chain(udp.iter().map(|(fd, _)| fd));
    let mut space: [_; MAX_SOCKETS] = std::array::from_fn(|_| PollFd::new(&channel, PollFlags::IN));
    let mut count = 1;
    for (place, fd) in space.iter_mut().skip(1).zip(read) {
        *place = PollFd::new(fd, PollFlags::IN);
        count += 1;
    }
    let fds = space.get_mut(..count).unwrap_or_default();
    let mut frames = 0;
    loop {
        if (PAUSE_AFTER..RING_BATCH).contains(&frames) {
            // The announcer's messages are not delayed.
            wait(fds.get_mut(..1).unwrap_or_default(), Some(PAUSE))?;
        }
        let limit = if frames == 0 { sniffer.report.due() } else { Some(Duration::ZERO) };
        wait(fds, limit)?;
        let mut ready = fds.iter().map(PollFd::revents);
        if ready.next().is_some_and(|events| !events.is_empty()) {
            sniffer.handle_messages()?;
        }
        if let (Some(ring), Some(socket)) = (&mut ring, incoming) {
            if ready.next().is_some_and(|events| events.contains(PollFlags::ERR)) {
                // Otherwise, poll(2) would return at once until the error is read.
                receive(socket, &mut [])?;
            }
            frames = sniffer.receive_from_ring(ring)?;
        }
        for socket in &*outgoing {
            if ready.next().is_some_and(|events| !events.is_empty()) {
                sniffer.receive_frames(socket)?;
            }
        }
        for (socket, port) in &*udp {
            if ready.next().is_some_and(|events| !events.is_empty()) {
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

/// The sockets that deliver packets.
#[derive(Clone, Copy)]
struct Readable<'a> {
    incoming: Option<&'a OwnedFd>,
    outgoing: &'a [OwnedFd],
    udp: &'a [(OwnedFd, u16)],
}

struct Sniffer<'a> {
    channel: Channel,
    ports: &'a Ports,
    sockets: Readable<'a>,
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

    /// Handles the frames in the ring, at most [`RING_BATCH`], and returns their number.
    fn receive_from_ring(&mut self, ring: &mut Ring) -> Result<usize, Error> {
        for received in 0..RING_BATCH {
            let handled = ring.receive(|envelope, payload| {
                let parsed = delivery::frame(envelope, payload, self.ports);
                self.record(parsed, envelope.truncated)
            });
            match handled {
                Some(result) => result?,
                None => return Ok(received),
            }
        }
        Ok(RING_BATCH)
    }

    fn receive_frames(&mut self, socket: impl AsFd) -> Result<(), Error> {
        let mut buffer = [0; SEARCHED];
        for _ in 0..BATCH {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let parsed = delivery::frame(&envelope, payload, self.ports);
            self.record(parsed, envelope.truncated)?;
        }
        Ok(())
    }

    fn receive_datagrams(&mut self, socket: impl AsFd, port: u16) -> Result<(), Error> {
        let mut buffer = [0; SEARCHED];
        for _ in 0..BATCH {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let parsed = delivery::datagram(&envelope, payload, port, self.ports);
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
            self.report.count_drops(&self.sockets)?;
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
    udp_drops: [u32; MAX_UDP_SOCKETS],
    /// The time of the last report.
    sent_at: Instant,
    /// Whether a packet or a request has arrived since the last report.
    pending: bool,
}

impl Report {
    /// Starts counting at zero. The drop count of a socket from the service manager may be higher, because the socket
    /// can be older than the service.
    fn new(udp: &[(OwnedFd, u16)]) -> Result<Self, Error> {
        let mut udp_drops = [0; MAX_UDP_SOCKETS];
        for (drops, (socket, _)) in udp_drops.iter_mut().zip(udp) {
            *drops = ffi::drops(socket).map_err(Error::Receive)?;
        }
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

    fn count_drops(&mut self, sockets: &Readable<'_>) -> Result<(), Error> {
        for socket in sockets.incoming.into_iter().chain(sockets.outgoing) {
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
