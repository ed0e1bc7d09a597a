//! System calls that no crate wraps.
#![expect(unsafe_code, reason = "the system calls take pointers")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The kind of device: `Documentation/networking/tuntap.rst` in the kernel's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// Carries Ethernet frames.
    Tap,
    /// Carries IP packets.
    Tun,
}

/// Creates a device with this name from an open `/dev/net/tun`. It exists until the file is closed.
pub(crate) fn set_interface(device: &File, kind: DeviceKind, name: &str) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::other(format!("the interface name {name:?} is too long")));
    }
    for (character, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *character = libc::c_char::from_ne_bytes([byte]);
    }
    let kind = match kind {
        DeviceKind::Tap => libc::IFF_TAP,
        DeviceKind::Tun => libc::IFF_TUN,
    };
    // IFF_NO_PI: frames have no packet information before them.
    request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads an ifreq and writes the name to it. `request` is an ifreq, and outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets `PACKET_QDISC_BYPASS` of a packet socket: packet(7). Its frames then do not go through the kernel's queue.
pub(crate) fn bypass_queue(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    let level = libc::SOL_PACKET;
    let option = libc::PACKET_QDISC_BYPASS;
    // SAFETY: setsockopt(2) reads `size` bytes from `on`, which is that long and outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
