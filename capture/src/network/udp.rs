//! The UDP sockets that the sniffer is to read, where the service manager hands none over.
//!
//! The announcer opens them because it may still have the privilege for ports below 1024; it never
//! reads one.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

/// One socket for each address; what is wrong with one of them is a warning.
#[must_use]
pub fn open_each(listen: &[SocketAddr]) -> Vec<OwnedFd> {
    listen.iter().filter_map(open_or_warn).collect()
}

fn open_or_warn(address: &SocketAddr) -> Option<OwnedFd> {
    match open(address) {
        Ok(socket) => {
            tracing::info!(%address, "receiving on UDP {address}");
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
