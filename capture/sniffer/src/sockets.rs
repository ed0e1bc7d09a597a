//! Opening the sockets: the last thing that the sniffer's capability is used for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use wakevirt_protocol::frame::Ports;
use wakevirt_protocol::sniffer::{Mode, Request, Start};

use crate::filter::{self, Direction};
use crate::{Error, ffi};

/// What a socket's buffer may hold, in bytes, as far as `net.core.rmem_max` lets it (socket(7)).
///
/// A magic packet takes about 800 bytes of it, so the usual limit of 212,992 bytes, which the
/// kernel doubles, holds some five hundred.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The sockets that the sniffer reads.
pub struct Sockets {
    /// Every incoming frame on every interface, now and later; none in UDP mode.
    pub incoming: Option<OwnedFd>,
    /// Outgoing frames, each socket for one interface once it is bound.
    pub outgoing: Vec<OwnedFd>,
    /// UDP sockets, each with the port that it is bound to.
    pub udp: Vec<(OwnedFd, u16)>,
    /// The ports whose payload is searched in full.
    pub ports: Ports,
}

impl Sockets {
    /// Opens, filters and locks the packet sockets, and makes the UDP sockets tell where a datagram arrived.
    pub fn open(start: &Start, udp: Vec<OwnedFd>) -> Result<Self, Error> {
        let ports = Ports::new(start.ports.clone());
        let (incoming, outgoing) = match start.request {
            Request::Udp => (None, Vec::new()),
            Request::Auto | Request::Raw => match packet_socket(&ports, Direction::Any) {
                Ok(incoming) => (Some(incoming), outgoing_sockets(&ports, start.outgoing)?),
                Err(Error::NotPrivileged) if start.request == Request::Auto => (None, Vec::new()),
                Err(error) => return Err(error),
            },
        };
        let udp = udp.into_iter().map(udp_socket).collect::<Result<Vec<_>, _>>()?;
        if incoming.is_none() && udp.is_empty() {
            return Err(Error::NothingToHearWith);
        }
        Ok(Self { incoming, outgoing, udp, ports })
    }

    /// How these sockets hear.
    pub const fn mode(&self) -> Mode {
        if self.incoming.is_some() { Mode::Raw } else { Mode::Udp }
    }
}

fn outgoing_sockets(ports: &Ports, count: u8) -> Result<Vec<OwnedFd>, Error> {
    (0..count).map(|_| packet_socket(ports, Direction::Outgoing)).collect()
}

/// A packet socket whose filter can no longer be changed.
///
/// It hears nothing before its filter is in place: it is opened for no protocol. The one for
/// outgoing frames is bound to its interface later, which takes no privilege.
fn packet_socket(ports: &Ports, direction: Direction) -> Result<OwnedFd, Error> {
    let failed = |action| move |error| Error::PacketSocket { action, error };
    let socket = ffi::packet_socket().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPrivileged,
        _ => Error::PacketSocket { action: "open", error },
    })?;
    let program = filter::program(ports.as_slice(), direction)
        .ok_or_else(|| failed("write the filter of")(io::Error::other("too many ports")))?;
    ffi::attach_filter(&socket, &program).map_err(failed("filter"))?;
    // Without it, the kernel clones every outgoing packet of the host for this socket before the
    // filter runs, which costs a host that forwards several per cent of its packets.
    let ignore = i32::from(direction == Direction::Any);
    ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, ignore)
        .map_err(failed("keep outgoing packets from"))?;
    // The VLAN tag that the kernel has taken off.
    ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)
        .map_err(failed("get VLAN tags from"))?;
    set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)
        .map_err(|error| failed("size the buffer of")(error.into()))?;
    ffi::set_int_option(&socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
        .map_err(failed("lock the filter of"))?;
    if direction == Direction::Any {
        ffi::bind_packet_socket(&socket, 0).map_err(failed("bind"))?;
    }
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
    ffi::set_int_option(socket.as_fd(), level, option, 1).map_err(failed("get the interface from"))?;
    Ok((socket, address.port()))
}
