//! Opens the sockets: the last use of the sniffer's capability.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt::{set_socket_recv_buffer_size, socket_recv_buffer_size};
use wakevirt_protocol::frame::Ports;
use wakevirt_protocol::sniffer::{Mode, Request, Source, Start};

use crate::error::Error;
use crate::ffi::{self, Ring};
use crate::filter::{self, Direction};

/// The size of the receive buffer of a socket without a ring, in bytes, limited by `net.core.rmem_max` (socket(7)).
///
/// A magic packet occupies about 800 bytes. The usual limit of 212,992 bytes, which the kernel doubles, is enough for
/// about 500 magic packets.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The memory for the rings of all sockets together, in bytes.
const RINGS: usize = 32 << 20;

/// The sockets that the sniffer reads.
pub struct Sockets {
    /// The packet sockets for incoming frames. Empty in UDP mode.
    pub incoming: Vec<OwnedFd>,
    /// The ring of each of these sockets.
    pub rings: Vec<IncomingRing>,
    /// These sockets receive outgoing frames. Each is later bound to one interface.
    pub outgoing: Vec<OwnedFd>,
    /// UDP sockets, each with its port.
    pub udp: Vec<(OwnedFd, u16)>,
    /// The UDP ports for which the payload is searched in full.
    pub ports: Ports,
}

/// The memory through which a socket delivers incoming frames.
pub struct IncomingRing {
    /// The memory.
    pub ring: Ring,
    /// The interfaces from which the socket receives; `None` if it is not bound yet.
    pub source: Option<Source>,
}

/// The sockets, while their rings are in use.
#[derive(Clone, Copy)]
pub struct Readable<'a> {
    /// [`Sockets::incoming`].
    pub incoming: &'a [OwnedFd],
    /// [`Sockets::outgoing`].
    pub outgoing: &'a [OwnedFd],
    /// [`Sockets::udp`].
    pub udp: &'a [(OwnedFd, u16)],
}

impl Sockets {
    /// Opens the packet sockets with locked filters, and enables packet information on the UDP sockets.
    pub fn open(start: &Start, udp: Vec<OwnedFd>) -> Result<Self, Error> {
        let ports = Ports::new(start.ports.clone());
        let (incoming, outgoing) = match start.request {
            Request::Udp => (Vec::new(), Vec::new()),
            Request::Auto | Request::Raw => match incoming_sockets(&ports, start.bound) {
                Ok(incoming) => (incoming, outgoing_sockets(&ports, start.outgoing)?),
                Err(Error::NotPrivileged) if start.request == Request::Auto => (Vec::new(), Vec::new()),
                Err(error) => return Err(error),
            },
        };
        let (incoming, rings) = incoming.into_iter().unzip();
        let udp = udp.into_iter().map(udp_socket).collect::<Result<Vec<_>, _>>()?;
        let sockets = Self { incoming, rings, outgoing, udp, ports };
        if sockets.incoming.is_empty() && sockets.udp.is_empty() {
            return Err(Error::NoSocket);
        }
        Ok(sockets)
    }

    /// The capture mode of these sockets.
    pub const fn mode(&self) -> Mode {
        if self.incoming.is_empty() { Mode::Udp } else { Mode::Raw }
    }

    /// The packet sockets, which can be bound.
    pub fn packet_sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.incoming.iter().chain(&self.outgoing)
    }
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::PacketSocket { action, error }
}

/// One socket for all interfaces, or `bound` sockets that are bound to their interfaces later.
fn incoming_sockets(ports: &Ports, bound: u8) -> Result<Vec<(OwnedFd, IncomingRing)>, Error> {
    let count = bound.max(1);
    let open = |_| {
        let socket = packet_socket(ports, Direction::Any)?;
        let ring = Ring::new(&socket, RINGS / usize::from(count)).map_err(failed("map the ring of"))?;
        let source = (bound == 0).then_some(Source::All);
        if source.is_some() {
            ffi::bind_packet_socket(&socket, 0).map_err(failed("bind"))?;
        }
        Ok((socket, IncomingRing { ring, source }))
    };
    (0..count).map(open).collect()
}

/// Each of these sockets is bound to its interface later, which needs no privilege.
fn outgoing_sockets(ports: &Ports, count: u8) -> Result<Vec<OwnedFd>, Error> {
    let open = |_| {
        let socket = packet_socket(ports, Direction::Outgoing)?;
        // Delivers the VLAN tag that the kernel removes.
        ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)
            .map_err(failed("get VLAN tags from"))?;
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)
            .map_err(|error| failed("set the buffer size of")(error.into()))?;
        Ok(socket)
    };
    (0..count).map(open).collect()
}

/// Opens a packet socket with a locked filter. It is not bound, so it receives nothing before its filter is attached.
fn packet_socket(ports: &Ports, direction: Direction) -> Result<OwnedFd, Error> {
    let socket = ffi::packet_socket().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPrivileged,
        _ => Error::PacketSocket { action: "open", error },
    })?;
    let program = filter::program(ports.as_slice(), direction)
        .ok_or_else(|| failed("compile the filter of")(io::Error::other("too many ports")))?;
    ffi::attach_filter(&socket, &program).map_err(failed("attach the filter to"))?;
    // Without this option, the kernel clones every outgoing packet of the host for this socket before the filter runs.
    // This costs a forwarding host several per cent of its throughput.
    let ignore = i32::from(direction == Direction::Any);
    ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, ignore)
        .map_err(failed("exclude outgoing packets from"))?;
    ffi::set_int_option(&socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
        .map_err(failed("lock the filter of"))?;
    Ok(socket)
}

fn udp_socket(socket: OwnedFd) -> Result<(OwnedFd, u16), Error> {
    let failed = |action| move |error| Error::UdpSocket { action, error };
    let address = rustix::net::getsockname(&socket)
        .map_err(io::Error::from)
        .and_then(|address| SocketAddr::try_from(address).map_err(io::Error::from))
        .map_err(failed("get the address of"))?;
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    ffi::set_int_option(socket.as_fd(), level, option, 1).map_err(failed("get packet information from"))?;
    // The service manager can have set a larger size than the limit allows here. The kernel reports twice the size.
    let sized = socket_recv_buffer_size(&socket).and_then(|size| {
        if size / 2 < RECEIVE_BUFFER { set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER) } else { Ok(()) }
    });
    sized.map_err(|error| failed("set the buffer size of")(error.into()))?;
    Ok((socket, address.port()))
}
