//! The main loop: receives packets and reports them.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakevirt_protocol::frame::{Ports, Rejection, SEARCHED};
use wakevirt_protocol::sniffer::{FromSniffer, MAX_BOUND, MAX_OUTGOING, MAX_UDP_SOCKETS, Source, ToSniffer};

use crate::channel::{Channel, SendOutcome};
use crate::delivery::{self, CapturedPackets};
use crate::error::Error;
use crate::ffi::{self, Envelope};
use crate::limits::{Decision, Limits};
use crate::report::Report;
use crate::sockets::{IncomingRing, Readable, Sockets};

/// The maximum number of packets that the sniffer reads from one socket before it reads from the next one.
const BATCH: usize = 64;
/// The same for the ring, from which reading a frame takes no system call.
const RING_BATCH: usize = 1024;
/// If the ring contained at least this many frames, more are arriving fast. Then the sniffer pauses, so that it handles
/// many frames each time that it runs. A single frame is handled at once.
const PAUSE_AFTER: usize = 4;
/// How long it pauses: the ring must hold the frames that arrive meanwhile.
const PAUSE: Duration = Duration::from_micros(500);

/// The socketpair, the packet sockets and the UDP sockets.
const MAX_SOCKETS: usize = 1 + MAX_BOUND + MAX_OUTGOING + MAX_UDP_SOCKETS;

/// Receives packets until the announcer exits or a socket fails.
///
/// Neither this function nor a failure report allocates memory: the sandbox forbids the system calls with which the C
/// library gets more from the kernel.
///
/// Packet sockets are read before UDP sockets: if both receive a datagram, the frame is reported first, because only
/// the frame contains the sender's MAC address.
pub(super) fn run(channel: Channel, sockets: &mut Sockets, limits: &mut Limits) -> Result<Infallible, Error> {
    let Sockets { incoming, rings, outgoing, udp, ports } = sockets;
    let sockets = Readable { incoming, outgoing, udp };
    let report = Report::new(udp)?;
    let mut sniffer = Sniffer { channel, ports, sockets, limits, report, applied: false };
    let read = sockets.incoming.iter().chain(sockets.outgoing).chain(udp.iter().map(|(fd, _)| fd));
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
            sniffer.handle_messages(rings)?;
        }
        frames = 0;
        for (ring, socket) in rings.iter_mut().zip(sockets.incoming) {
            if ready.next().is_some_and(|events| events.contains(PollFlags::ERR)) {
                // Otherwise, poll(2) would return at once until the error is read.
                receive(socket, &mut [])?;
            }
            frames = frames.max(sniffer.receive_from_ring(ring)?);
        }
        for socket in sockets.outgoing {
            if ready.next().is_some_and(|events| !events.is_empty()) {
                sniffer.receive_frames(socket)?;
            }
        }
        for (socket, port) in sockets.udp {
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

struct Sniffer<'a> {
    channel: Channel,
    ports: &'a Ports,
    sockets: Readable<'a>,
    limits: &'a mut Limits,
    report: Report,
    /// Whether a change has been made that is not acknowledged yet.
    applied: bool,
}

impl Sniffer<'_> {
    /// Handles the announcer's pending messages.
    fn handle_messages(&mut self, rings: &mut [IncomingRing]) -> Result<(), Error> {
        while let Some(message) = self.channel.receive()? {
            match message {
                ToSniffer::Incoming { slot, source } => {
                    let slot = usize::from(slot);
                    let ring = rings.get_mut(slot).ok_or(Error::UnexpectedMessage)?;
                    let socket = self.sockets.incoming.get(slot).ok_or(Error::UnexpectedMessage)?;
                    ring.source = Some(source);
                    bind(socket, source)?;
                }
                ToSniffer::Outgoing { slot, interface } => {
                    let socket =
                        self.sockets.outgoing.get(usize::from(slot)).ok_or(Error::UnexpectedMessage)?;
                    let interface = NonZeroU32::new(interface).ok_or(Error::UnexpectedMessage)?;
                    bind(socket, Source::Interface(interface))?;
                }
                ToSniffer::Report => self.report.request(),
                ToSniffer::Change(change) => {
                    self.limits.apply(&change)?;
                    self.applied = true;
                }
                ToSniffer::Start(_) => return Err(Error::UnexpectedMessage),
            }
        }
        Ok(())
    }

    /// Handles the frames in the ring, at most [`RING_BATCH`], and returns their number.
    fn receive_from_ring(&mut self, ring: &mut IncomingRing) -> Result<usize, Error> {
        let now = Instant::now();
        let IncomingRing { ring, source } = ring;
        for received in 0..RING_BATCH {
            let handled = ring.receive(|envelope, payload| {
                if includes(*source, envelope.interface()) {
                    self.handle_frame(envelope, payload, now)
                } else {
                    Ok(())
                }
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
            self.handle_frame(&envelope, payload, Instant::now())?;
        }
        Ok(())
    }

    fn handle_frame(&mut self, envelope: &Envelope, payload: &[u8], now: Instant) -> Result<(), Error> {
        if self.limits.excludes(envelope.interface()) {
            return Ok(());
        }
        let parsed = delivery::frame(envelope, payload, self.ports);
        self.record(parsed, envelope.truncated, now)
    }

    fn receive_datagrams(&mut self, socket: impl AsFd, port: u16) -> Result<(), Error> {
        let mut buffer = [0; SEARCHED];
        for _ in 0..BATCH {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            if self.limits.excludes(envelope.interface()) {
                continue;
            }
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let parsed = delivery::datagram(&envelope, payload, port, self.ports);
            self.record(parsed, envelope.truncated, Instant::now())?;
        }
        Ok(())
    }

    /// Passes accepted packets to the announcer, and counts all others.
    fn record(
        &mut self,
        parsed: Result<CapturedPackets<'_>, Rejection>,
        truncated: bool,
        now: Instant,
    ) -> Result<(), Error> {
        self.report.request();
        let counters = &mut self.report.counters;
        let Ok(packets) = parsed else {
            counters.malformed += 1;
            return Ok(());
        };
        counters.truncated += u64::from(truncated);
        for captured in packets {
            let suppressed = counters.suppressed_mut(captured.packet.carrier.transport());
            match self.limits.decide(&captured, now) {
                Decision::Pass => {
                    if self.channel.send(&FromSniffer::Packet(captured))? == SendOutcome::Full {
                        counters.dropped_channel += 1;
                    }
                }
                Decision::Duplicate => suppressed.duplicates += 1,
                Decision::Limited => suppressed.limited += 1,
            }
        }
        Ok(())
    }

    fn send_report(&mut self) -> Result<(), Error> {
        if self.applied {
            match self.channel.send(&FromSniffer::Applied)? {
                SendOutcome::Sent => self.applied = false,
                // Makes the loop try again within a second.
                SendOutcome::Full => self.report.request(),
            }
        }
        if self.report.due() == Some(Duration::ZERO) {
            self.report.count_drops(&self.sockets)?;
            let outcome = self.channel.send(&FromSniffer::Counters(self.report.counters))?;
            self.report.sent(outcome);
        }
        Ok(())
    }
}

/// Binds a packet socket to its source.
fn bind(socket: &OwnedFd, source: Source) -> Result<(), Error> {
    let interface = match source {
        Source::All => 0,
        Source::Interface(interface) | Source::None(interface) => interface.get(),
    };
    match ffi::bind_packet_socket(socket, interface) {
        Ok(()) => Ok(()),
        // The interface was removed. The announcer sends another message when it reappears.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(Error::PacketSocket { action: "bind", error }),
    }
}

/// Whether a socket with this source receives from the interface. After a change of the source, the ring can contain
/// frames from other interfaces.
fn includes(source: Option<Source>, interface: u32) -> bool {
    match source {
        Some(Source::All) => true,
        Some(Source::Interface(only)) => only.get() == interface,
        Some(Source::None(_)) | None => false,
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
