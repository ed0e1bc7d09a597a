#![expect(unsafe_code, reason = "no crate wraps this ioctl")]
//! The state of a socket.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);

/// The size of the messages that the receiver has not read, with the kernel's overhead, in bytes.
///
/// SIOCOUTQ in the kernel's net/unix/af_unix.c.
pub(super) fn unread(socket: &UnixDatagram) -> io::Result<i32> {
    let mut size = 0;
    // SAFETY: the descriptor is open, and the kernel writes an int to this address.
    unsafe { siocoutq(socket.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}
