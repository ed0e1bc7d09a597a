//! Waits until the journal has read the messages of this process.
//!
//! journald looks up the unit of a process when it reads a message. If the process has exited by then, the message has no
//! unit, and `journalctl --unit` does not show it: <https://github.com/systemd/systemd/issues/2913>.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ffi::unread;

/// The socket of the journal: systemd-journald.service(8).
const SOCKET: &str = "/run/systemd/journal/socket";
/// How long a process waits at most. journald usually needs less than a millisecond.
const LIMIT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(1);

/// Returns when the journal has read all messages of this process, or after [`LIMIT`].
///
/// # Errors
/// If the journal is not running.
pub(super) fn wait_until_read() -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let socket = UnixDatagram::unbound()?;
    socket.connect(SOCKET)?;
    socket.set_write_timeout(Some(LIMIT))?;
    // journald reads the messages in order, and ignores an empty one.
    socket.send(&[])?;
    while unread(&socket)? > 0 && Instant::now() < deadline {
        sleep(INTERVAL);
    }
    Ok(())
}
