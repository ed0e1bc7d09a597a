#![expect(unsafe_code, reason = "no crate wraps this function")]
//! The exit of a program that has called libvirt.

use std::io::{self, Write as _};

/// Exits immediately, without the exit handlers of the libraries: _exit(2). Use this function instead of a return from
/// `main`.
///
/// At this time, other threads may still call libvirt, or release what they used. exit(3) runs OpenSSL's exit handler,
/// which frees memory without locks: a thread that uses the memory at the same time crashes the process. The kernel
/// closes the connections, and the daemon completes calls in progress.
pub fn immediately(code: u8) -> ! {
    // If nobody reads standard output, there is nothing else to do.
    let _ = io::stdout().flush();
    // SAFETY: it can be called at any time, and does not return.
    unsafe { libc::_exit(code.into()) }
}
