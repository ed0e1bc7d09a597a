//! Reading packets, for ever.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakevirt_protocol::frame::{Frame, Refusal, judge, judge_datagram};
use wakevirt_protocol::link::sender;
use wakevirt_protocol::sniffer::{Counters, FromSniffer, ToSniffer};
use wakevirt_protocol::{Carrier, Heard, Sighting, UdpPath};

use super::Error;
use super::channel::{Channel, Said};
use super::ffi::{self, Arrival, Envelope, Sender};
use super::filter::CAPTURED;
use super::sockets::Sockets;

/// How many packets are taken from one socket before the others have their turn.
const TURN: usize = 64;

/// How often the counters are said, at most.
const PACE: Duration = Duration::from_secs(1);

/// Hears until the announcer goes, or a socket fails.
///
/// Packet sockets have their turn before UDP sockets: of a datagram that reaches both, the frame
/// comes first, and it is the one that knows the sender's MAC address.
pub(super) fn hear(channel: Channel, sockets: &Sockets) -> Result<(), Error> {
    let mut sniffer = Sniffer { channel, sockets, tally: Tally::new(sockets) };
    let mut fds = vec![PollFd::new(&channel, PollFlags::IN)];
    let read = sockets.incoming.iter().chain(&sockets.outgoing).chain(sockets.udp.iter().map(|(fd, _)| fd));
    fds.extend(read.map(|fd| PollFd::new(fd, PollFlags::IN)));
    loop {
        wait(&mut fds, sniffer.tally.due())?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            sniffer.obey()?;
        }
        for packets in sockets.incoming.iter().chain(&sockets.outgoing) {
            if ready.next() == Some(true) {
                sniffer.take_frames(packets)?;
            }
        }
        for (socket, port) in &sockets.udp {
            if ready.next() == Some(true) {
                sniffer.take_datagrams(socket, *port)?;
            }
        }
        sniffer.report()?;
    }
}

fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<(), Error> {
    // A limit of at most a second always fits.
    let limit = limit.map(|limit| Timespec::try_from(limit).unwrap_or_default());
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Error::Wait(error.into())),
    }
}

struct Sniffer<'a> {
    channel: Channel,
    sockets: &'a Sockets,
    tally: Tally,
}

impl Sniffer<'_> {
    /// Does what the announcer says.
    fn obey(&mut self) -> Result<(), Error> {
        while let Some(message) = self.channel.take()? {
            let ToSniffer::Outgoing { slot, interface } = message else { return Err(Error::OutOfTurn) };
            let socket = self.sockets.outgoing.get(usize::from(slot)).ok_or(Error::OutOfTurn)?;
            match ffi::bind_packet_socket(socket, interface) {
                Ok(()) => {}
                // The interface has gone again, and the announcer will say so.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(Error::PacketSocket { action: "bind", error }),
            }
        }
        Ok(())
    }

    fn take_frames(&mut self, socket: impl AsFd) -> Result<(), Error> {
        let mut buffer = [0; CAPTURED];
        for _ in 0..TURN {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            self.weigh(frame(&envelope, payload, self.sockets))?;
        }
        Ok(())
    }

    fn take_datagrams(&mut self, socket: impl AsFd, port: u16) -> Result<(), Error> {
        let mut buffer = [0; CAPTURED];
        for _ in 0..TURN {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            self.weigh(datagram(&envelope, payload, port, self.sockets))?;
        }
        Ok(())
    }

    /// Says what was accepted, and counts what was not.
    fn weigh(&mut self, judged: Result<Sighting, Refusal>) -> Result<(), Error> {
        self.tally.stir();
        match judged {
            Ok(sighting) => {
                if self.channel.say(&FromSniffer::Packet(sighting))? == Said::NoRoom {
                    self.tally.counters.dropped_channel += 1;
                }
            }
            Err(_) => self.tally.counters.malformed += 1,
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), Error> {
        if self.tally.due() == Some(Duration::ZERO) {
            self.tally.count_drops(self.sockets)?;
            let said = self.channel.say(&FromSniffer::Counters(self.tally.counters))?;
            self.tally.settle(said);
        }
        Ok(())
    }
}

/// One datagram, where one is waiting.
fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Envelope>, Error> {
    loop {
        match ffi::receive(&socket, buffer) {
            Ok(envelope) => return Ok(Some(envelope)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A socket for one interface is told once that it went down, and is otherwise well (packet(7)).
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => return Err(Error::Receive(error)),
        }
    }
}

/// Judges what a packet socket delivered.
fn frame(envelope: &Envelope, payload: &[u8], sockets: &Sockets) -> Result<Sighting, Refusal> {
    let Some(Sender::Link { protocol, interface, kind, address_length, address, .. }) = envelope.sender
    else {
        return Err(Refusal::BadHeader);
    };
    let source = sender(kind, u16::from(address_length), address);
    let frame = Frame { protocol, tag: envelope.tag, source, payload };
    Ok(Sighting { heard: judge(&frame, &sockets.ports)?, interface })
}

/// Judges what a UDP socket delivered.
fn datagram(envelope: &Envelope, payload: &[u8], port: u16, sockets: &Sockets) -> Result<Sighting, Refusal> {
    let Some(Sender::Inet(source)) = &envelope.sender else { return Err(Refusal::BadHeader) };
    let (interface, destination) = match envelope.arrival {
        Some(Arrival::V4 { interface, destination }) => (interface, IpAddr::V4(destination)),
        Some(Arrival::V6 { interface, destination }) => (interface, IpAddr::V6(destination)),
        None => return Err(Refusal::BadHeader),
    };
    let magic = judge_datagram(payload, port, &sockets.ports)?;
    let carrier = carrier(*source, destination, port).ok_or(Refusal::BadHeader)?;
    Ok(Sighting { heard: Heard { magic, carrier, vlan: None }, interface })
}

/// What carried a datagram. A socket for both versions tells IPv4 addresses as mapped ones (ipv6(7)).
fn carrier(source: SocketAddr, destination: IpAddr, port: u16) -> Option<Carrier> {
    match (source.ip().to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(Carrier::Udp4(UdpPath {
            source_mac: None,
            source: from,
            source_port: source.port(),
            destination: to,
            destination_port: port,
        })),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(Carrier::Udp6(UdpPath {
            source_mac: None,
            source: from,
            source_port: source.port(),
            destination: to,
            destination_port: port,
        })),
        _ => None,
    }
}

/// The counters, and when they are to be said.
struct Tally {
    counters: Counters,
    /// How often each UDP socket had dropped, when last asked; the kernel's counts wrap around.
    udp_drops: Vec<u32>,
    /// When they were last said.
    said: Instant,
    /// Whether something arrived since.
    stirred: bool,
}

impl Tally {
    fn new(sockets: &Sockets) -> Self {
        let udp_drops = vec![0; sockets.udp.len()];
        Self { counters: Counters::default(), udp_drops, said: Instant::now(), stirred: false }
    }

    /// Something arrived.
    const fn stir(&mut self) {
        self.stirred = true;
    }

    /// How long until the counters are to be said: never, where nothing arrives.
    fn due(&self) -> Option<Duration> {
        self.stirred.then(|| PACE.saturating_sub(self.said.elapsed()))
    }

    fn settle(&mut self, said: Said) {
        self.said = Instant::now();
        self.stirred = said == Said::NoRoom;
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
