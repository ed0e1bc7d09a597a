//! What the service manager hands over (sd_listen_fds(3)), told apart by what each socket is.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use nix::libc::{AF_NETLINK, SOCK_RAW};
use rustix::net::sockopt::socket_protocol;
use wakevirt_protocol::sniffer::MAX_UDP_SOCKETS;

/// The sockets that were handed over.
#[derive(Debug, Default)]
pub struct HandedOver {
    /// Those that the sniffer is to read.
    pub udp: Vec<OwnedFd>,
    /// The one by which the kernel tells when links change (rtnetlink(7)). It is the announcer's own.
    pub links: Option<OwnedFd>,
}

impl HandedOver {
    /// Takes them over. What is of no use is a warning.
    #[must_use]
    pub fn take() -> Self {
        let mut sockets = ListenFd::from_env();
        let mut taken = Self::default();
        for index in 0..sockets.len() {
            if let Err(error) = taken.take_one(&mut sockets, index) {
                tracing::warn!(
                    "socket {index} that was handed over is not used: {error}; only UDP sockets can be heard, and one netlink socket can tell of links"
                );
            }
        }
        if taken.udp.len() > MAX_UDP_SOCKETS {
            tracing::warn!(
                "{} UDP sockets were handed over; only the first {MAX_UDP_SOCKETS} are heard",
                taken.udp.len()
            );
            taken.udp.truncate(MAX_UDP_SOCKETS);
        }
        taken
    }

    fn take_one(&mut self, sockets: &mut ListenFd, index: usize) -> io::Result<()> {
        // What is of another kind stays where it is.
        if let Ok(socket) = sockets.take_udp_socket(index) {
            self.udp.extend(socket.map(announce).map(OwnedFd::from));
            return Ok(());
        }
        let Some(socket) = sockets.take_custom::<OwnedFd>(index, AF_NETLINK, SOCK_RAW, "UDP or netlink")?
        else {
            return Ok(());
        };
        // NETLINK_ROUTE is 0, which is told as none.
        if socket_protocol(&socket)?.is_some() {
            return Err(io::Error::other("its netlink protocol is not `route`"));
        }
        if self.links.is_some() {
            return Err(io::Error::other("it is the second netlink socket"));
        }
        self.links = Some(socket);
        Ok(())
    }
}

fn announce(socket: UdpSocket) -> UdpSocket {
    if let Ok(address) = socket.local_addr() {
        tracing::info!(%address, "receiving on UDP {address}, by a socket of the service manager");
    }
    socket
}
