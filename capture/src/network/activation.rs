//! The sockets that the service manager passes (sd_listen_fds(3)), sorted by kind.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use libc::{AF_NETLINK, SOCK_RAW};
use listenfd::ListenFd;
use rustix::net::sockopt::socket_protocol;
use wakevirt_protocol::sniffer::MAX_UDP_SOCKETS;
use wakevirt_service::logs::kind;

/// The passed sockets.
#[derive(Debug, Default)]
pub struct PassedSockets {
    /// UDP sockets, for the sniffer.
    pub udp: Vec<OwnedFd>,
    /// The netlink socket on which the kernel reports link changes (rtnetlink(7)), for the announcer.
    pub links: Option<OwnedFd>,
}

impl PassedSockets {
    /// Takes the passed sockets, and logs a warning for each unsupported socket.
    #[must_use]
    pub fn take() -> Self {
        let mut sockets = ListenFd::from_env();
        let mut taken = Self::default();
        for index in 0..sockets.len() {
            if let Err(error) = taken.take_one(&mut sockets, index) {
                tracing::warn!(
                    MESSAGE_ID = kind::SOCKET_IGNORED,
                    "socket {index} from the service manager is ignored: {error}; only UDP sockets and one netlink \
                     socket for link changes are supported"
                );
            }
        }
        if taken.udp.len() > MAX_UDP_SOCKETS {
            tracing::warn!(
                MESSAGE_ID = kind::SOCKET_IGNORED,
                "the service manager passed {} UDP sockets; only the first {MAX_UDP_SOCKETS} are used",
                taken.udp.len()
            );
            taken.udp.truncate(MAX_UDP_SOCKETS);
        }
        taken
    }

    fn take_one(&mut self, sockets: &mut ListenFd, index: usize) -> io::Result<()> {
        // If this fails, listenfd does not remove the socket.
        if let Ok(socket) = sockets.take_udp_socket(index) {
            self.udp.extend(socket.map(log_address).map(OwnedFd::from));
            return Ok(());
        }
        let Some(socket) = sockets.take_custom::<OwnedFd>(index, AF_NETLINK, SOCK_RAW, "UDP or netlink")?
        else {
            return Ok(());
        };
        // NETLINK_ROUTE is 0, which rustix returns as `None`.
        if socket_protocol(&socket)?.is_some() {
            return Err(io::Error::other("its netlink protocol is not `route`"));
        }
        if self.links.is_some() {
            return Err(io::Error::other("there is already a netlink socket"));
        }
        self.links = Some(socket);
        Ok(())
    }
}

fn log_address(socket: UdpSocket) -> UdpSocket {
    if let Ok(address) = socket.local_addr() {
        tracing::info!(
            MESSAGE_ID = kind::SOCKET_OPENED,
            WAKEVIRT_ADDRESS = %address,
            "receiving on UDP {address}, with a socket from the service manager"
        );
    }
    socket
}
