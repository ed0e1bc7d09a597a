//! Reading packets, for ever.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wakevirt_protocol::frame::{Refusal, SEARCHED};
use wakevirt_protocol::sniffer::{Counters, FromSniffer, ToSniffer};

use crate::Error;
use crate::channel::{Channel, Said};
use crate::delivery::{self, Sightings};
use crate::ffi::{self, Envelope};
use crate::sockets::Sockets;

/// How many packets are taken from one socket before the others have their turn.
const TURN: usize = 64;

/// How often the counters are said, at most.
const PACE: Duration = Duration::from_secs(1);

/// Hears until the announcer goes, or a socket fails.
///
/// Packet sockets have their turn before UDP sockets: of a datagram that reaches both, the frame
/// comes first, and it is the one that knows the sender's MAC address.
pub(super) fn hear(channel: Channel, sockets: &Sockets) -> Result<Infallible, Error> {
    let mut sniffer = Sniffer { channel, sockets, tally: Tally::new(sockets)? };
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
            let (slot, interface) = match message {
                ToSniffer::Outgoing { slot, interface } => (slot, interface),
                ToSniffer::Report => {
                    self.tally.stir();
                    continue;
                }
                ToSniffer::Start(_) => return Err(Error::OutOfTurn),
            };
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
        let mut buffer = [0; SEARCHED];
        for _ in 0..TURN {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let judged = delivery::frame(&envelope, payload, &self.sockets.ports);
            self.weigh(judged, envelope.cut)?;
        }
        Ok(())
    }

    fn take_datagrams(&mut self, socket: impl AsFd, port: u16) -> Result<(), Error> {
        let mut buffer = [0; SEARCHED];
        for _ in 0..TURN {
            let Some(envelope) = receive(&socket, &mut buffer)? else { break };
            let payload = buffer.get(..envelope.length).unwrap_or_default();
            let judged = delivery::datagram(&envelope, payload, port, &self.sockets.ports);
            self.weigh(judged, envelope.cut)?;
        }
        Ok(())
    }

    /// Sends what was accepted, and counts what was not, and what was cut off.
    fn weigh(&mut self, judged: Result<Sightings<'_>, Refusal>, cut: bool) -> Result<(), Error> {
        self.tally.stir();
        let Ok(sightings) = judged else {
            self.tally.counters.malformed += 1;
            return Ok(());
        };
        self.tally.counters.truncated += u64::from(cut);
        for sighting in sightings {
            if self.channel.say(&FromSniffer::Packet(sighting))? == Said::NoRoom {
                self.tally.counters.dropped_channel += 1;
            }
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

/// The counters, and when they are to be said.
struct Tally {
    counters: Counters,
    /// How often each UDP socket had dropped, when last asked; the kernel's counts wrap around.
    udp_drops: Vec<u32>,
    /// When they were last said.
    said: Instant,
    /// Whether something arrived since, or somebody asked.
    stirred: bool,
}

impl Tally {
    /// Begins at zero: a socket of the service manager outlives the service, and so do its drops.
    fn new(sockets: &Sockets) -> Result<Self, Error> {
        let udp_drops = sockets.udp.iter().map(|(socket, _)| ffi::drops(socket)).collect::<Result<_, _>>();
        let udp_drops = udp_drops.map_err(Error::Receive)?;
        Ok(Self { counters: Counters::default(), udp_drops, said: Instant::now(), stirred: false })
    }

    /// Something arrived, or somebody asks.
    const fn stir(&mut self) {
        self.stirred = true;
    }

    /// How long until the counters are to be said: never, where nothing arrives and nobody asks.
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
