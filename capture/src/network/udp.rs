//! Opens the UDP sockets for the sniffer, if the service manager passes none.
//!
//! The announcer opens them before it drops its capabilities, because ports below 1024 require one. It never reads from
//! them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use wakevirt_service::logs::kind;

/// Opens a socket for each address, and logs a warning for each socket that cannot be opened.
#[must_use]
pub fn open_each(listen: &[SocketAddr]) -> Vec<OwnedFd> {
    listen.iter().filter_map(open_or_warn).collect()
}

fn open_or_warn(address: &SocketAddr) -> Option<OwnedFd> {
    match open(address) {
        Ok(socket) => {
            tracing::info!(
                MESSAGE_ID = kind::SOCKET_OPENED,
                WAKEVIRT_ADDRESS = %address,
                "receiving on UDP {address}"
            );
            Some(socket)
        }
        Err(error) => {
            tracing::warn!(
                MESSAGE_ID = kind::SOCKET_FAILED,
                WAKEVIRT_ADDRESS = %address,
                "cannot listen on UDP {address}: {error}{}",
                advice(error)
            );
            None
        }
    }
}

fn open(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // Otherwise the socket also binds the port for IPv4, and binding 0.0.0.0 fails.
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, address)?;
    Ok(socket)
}

const fn advice(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS => {
            "; a port below 1024 requires CAP_NET_BIND_SERVICE; enable wakevirt-capture.socket, which passes the socket, or set another port in `listen`"
        }
        Errno::ADDRINUSE => {
            "; another program uses the port; set another port in `listen`, and configure the senders to use it"
        }
        _ => "",
    }
}
