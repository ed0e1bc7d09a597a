//! The one unsafe call of the announcer: tokio asks for a promise that a descriptor stays what it is.
#![expect(unsafe_code, reason = "AsyncFd cannot tell an owned descriptor from one that others may close")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime watch for when the descriptor can be read. Needs the runtime.
///
/// # Errors
/// Where epoll does not take the descriptor.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd is always the same open one.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
