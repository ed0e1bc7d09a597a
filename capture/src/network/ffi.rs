//! The announcer's system calls that no crate wraps safely.
#![expect(
    unsafe_code,
    reason = "AsyncFd and BorrowedFd require guarantees about descriptors, and no crate wraps close_range"
)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sets close-on-exec on all descriptors except the standard ones, so that child processes do not inherit descriptors
/// that the parent of this process left open: close_range(2), or through `/proc` on kernels older than Linux 5.11.
///
/// # Errors
/// The error of reading `/proc/self/fd`.
pub fn set_close_on_exec() -> io::Result<()> {
    // It is called by its number, because not every C library wraps it.
    // SAFETY: the call takes no pointer, and with this flag it does not close any descriptor of this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { set_close_on_exec_for_each() } else { Ok(()) }
}

/// Does the same for each descriptor in `/proc/self/fd`. Other threads must not open descriptors without close-on-exec
/// meanwhile.
fn set_close_on_exec_for_each() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok())
            && number > libc::STDERR_FILENO
        {
            // SAFETY: the call changes only a flag. If the descriptor has been closed, it fails.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            match fcntl_setfd(descriptor, FdFlags::CLOEXEC) {
                // It was closed after it was listed, such as that of the directory.
                Ok(()) | Err(Errno::BADF) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Registers the descriptor with the async runtime, for reading. Requires a runtime.
///
/// # Errors
/// If epoll does not support the descriptor.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd always refers to the same open descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::io::fcntl_getfd;

    use super::*;

    #[test]
    fn kernels_without_close_range_set_close_on_exec_for_each_descriptor() {
        let inherited = std::fs::File::open("/dev/null").unwrap();
        fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        set_close_on_exec_for_each().unwrap();
        assert_eq!(fcntl_getfd(inherited.as_fd()).unwrap(), FdFlags::CLOEXEC);
        let standard = fcntl_getfd(std::io::stderr()).unwrap();
        assert_eq!(standard, FdFlags::empty());
    }
}
