//! The system calls of the announcer that no crate wraps safely.
#![expect(unsafe_code, reason = "tokio wants a promise about descriptors, and nobody wraps close_range")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Keeps every descriptor but the standard ones from programs that are started from here on,
/// whoever left them open: close_range(2), Linux 5.11.
///
/// # Errors
/// `EINVAL` or `ENOSYS` where the kernel is older.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    // By its number, because not every C library wraps it.
    // SAFETY: it takes no pointer, and with this flag closes nothing here.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the runtime watch for when the descriptor can be read. Needs the runtime.
///
/// # Errors
/// Where epoll does not take the descriptor.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd is always the same open one.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
