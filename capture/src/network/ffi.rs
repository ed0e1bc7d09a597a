//! The announcer's system calls that no crate wraps safely.
#![expect(
    unsafe_code,
    reason = "AsyncFd requires a guarantee about descriptors, and no crate wraps close_range"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sets close-on-exec on all descriptors except the standard ones, so that child processes do not inherit descriptors
/// that the parent of this process left open: close_range(2), since Linux 5.11.
///
/// # Errors
/// `EINVAL` or `ENOSYS` on an older kernel.
pub fn set_close_on_exec() -> io::Result<()> {
    // It is called by its number, because not every C library wraps it.
    // SAFETY: the call takes no pointer, and with this flag it does not close any descriptor of this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Registers the descriptor with the async runtime, for reading. Requires a runtime.
///
/// # Errors
/// If epoll does not support the descriptor.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd always refers to the same open descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
