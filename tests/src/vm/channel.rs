//! A socket of QEMU.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::wait;

/// The maximum time for a reply. The boot takes the longest.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A connection to the socket.
#[derive(Debug)]
pub(super) struct Channel(BufReader<UnixStream>);

impl Channel {
    /// Connects to the socket as soon as it exists.
    ///
    /// # Panics
    /// If it does not exist within the timeout.
    pub fn connect(path: &Path) -> Self {
        let socket = wait::until("QEMU's socket", || UnixStream::connect(path).ok());
        let mut channel = Self(BufReader::new(socket));
        channel.set_timeout(TIMEOUT);
        channel
    }

    /// Sets the maximum time for a reply.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.0.get_ref().set_read_timeout(Some(timeout)).expect("a timeout");
    }

    /// Sends bytes to QEMU.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    /// Waits for a line, and returns it with its end.
    pub fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).map_err(explained)? {
            0 => Err(io::Error::other("QEMU has exited")),
            _ => Ok(line),
        }
    }

    /// Waits for this number of bytes.
    pub fn read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).map_err(explained)?;
        Ok(bytes)
    }
}

/// Replaces the error of a timeout, which socket(7) calls "Resource temporarily unavailable".
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "timeout"),
        _ => error,
    }
}
