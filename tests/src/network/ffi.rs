//! The one system call that no crate wraps: making a tap or tun device.
#![expect(unsafe_code, reason = "ioctl(2) takes a pointer")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Which kind of device: `Documentation/networking/tuntap.rst` of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Carries Ethernet frames.
    Tap,
    /// Carries IP packets.
    Tun,
}

/// Makes the opened `/dev/net/tun` a device of this name, which lives until the file is closed.
pub(crate) fn set_interface(device: &File, kind: Kind, name: &str) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::other(format!("the interface name {name:?} is too long")));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    let kind = match kind {
        Kind::Tap => libc::IFF_TAP,
        Kind::Tun => libc::IFF_TUN,
    };
    // No packet information: a frame is written as it is, with nothing before it.
    request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads an ifreq and writes its name back; `request` is one, and outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
