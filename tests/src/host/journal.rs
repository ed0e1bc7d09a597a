//! A journal socket: "Native Journal Protocol" in the documentation of systemd.

use crate::host::Host;
use crate::process::lines::Lines;
use crate::process::socket::MessageSocket;

/// The path of the journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A replacement for systemd-journald on a host, until it is dropped.
#[derive(Debug)]
pub struct Journal(MessageSocket);

impl Journal {
    /// Opens the journal's socket on the host.
    ///
    /// # Panics
    /// If that fails, for example because the socket exists.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let path = host.path(SOCKET);
        std::fs::create_dir_all(path.parent().expect("a parent directory")).expect("a directory in /run");
        Self(MessageSocket::bind(&path, |lines, entry| lines.push(entry.trim_end().replace('\n', " | "))))
    }

    /// The received entries, one for each line: `FIELD=value | FIELD=value`.
    #[must_use]
    pub fn entries(&self) -> &Lines {
        self.0.lines()
    }
}
