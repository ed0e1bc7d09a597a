//! The UDP sockets that the sniffer is to read: handed over by the service manager, or opened here.
//!
//! The announcer opens them because it may still have the privilege for ports below 1024; it never
//! reads one.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use wakevirt_protocol::sniffer::MAX_UDP_SOCKETS;

/// The sockets that were handed over (sd_listen_fds(3)), else one for each address; what is wrong
/// with one of them is a warning.
#[must_use]
pub fn sockets(listen: &[SocketAddr]) -> Vec<OwnedFd> {
    let mut handed_over = ListenFd::from_env();
    if handed_over.len() == 0 {
        return listen.iter().filter_map(open_or_warn).collect();
    }
    if handed_over.len() > MAX_UDP_SOCKETS {
        tracing::warn!(
            "{} sockets were handed over; only the first {MAX_UDP_SOCKETS} are heard",
            handed_over.len()
        );
    }
    (0..handed_over.len().min(MAX_UDP_SOCKETS))
        .filter_map(|index| match handed_over.take_udp_socket(index) {
            Ok(socket) => socket.map(announce).map(OwnedFd::from),
            Err(error) => {
                tracing::warn!(
                    "socket {index} that was handed over is not used: {error}; only UDP sockets can be heard"
                );
                None
            }
        })
        .collect()
}

fn announce(socket: UdpSocket) -> UdpSocket {
    if let Ok(address) = socket.local_addr() {
        tracing::info!(%address, "hearing on a UDP socket that was handed over");
    }
    socket
}

fn open_or_warn(address: &SocketAddr) -> Option<OwnedFd> {
    match open(address) {
        Ok(socket) => {
            tracing::debug!(%address, "hearing on UDP");
            Some(socket)
        }
        Err(error) => {
            tracing::warn!(%address, "cannot listen on UDP {address}: {error}{}", advice(error));
            None
        }
    }
}

fn open(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // Else it would take the port for IPv4 as well, and 0.0.0.0 could not be bound beside it.
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, address)?;
    Ok(socket)
}

const fn advice(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS => {
            "; a port below 1024 takes a privilege: let wakevirt-capture.socket hand it over, or choose another in `listen`"
        }
        Errno::ADDRINUSE => "; another program has it: choose another in `listen`, and let senders use that",
        _ => "",
    }
}
