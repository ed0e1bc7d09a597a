//! A journal socket: "Native Journal Protocol" in the documentation of systemd.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::process::lines::Lines;

/// The path of the journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A replacement for systemd-journald on a host, until it is dropped.
#[derive(Debug)]
pub struct Journal {
    entries: Lines,
    /// The reading thread exits when this is dropped.
    _alive: Arc<()>,
}

impl Journal {
    /// Opens the journal's socket on the host. All users can write to it, as to the real one.
    ///
    /// # Panics
    /// If that fails, for example because the socket exists.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let path = host.path(SOCKET);
        std::fs::create_dir_all(path.parent().expect("a parent directory")).expect("a directory in /run");
        let socket = UnixDatagram::bind(&path).expect("the journal's socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("its mode");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let (entries, alive) = (Lines::default(), Arc::new(()));
        let (writer, watch) = (entries.clone(), Arc::downgrade(&alive));
        std::thread::spawn(move || {
            let mut entry = vec![0; 65536];
            while watch.strong_count() > 0 {
                match socket.recv(&mut entry) {
                    Ok(length) => {
                        let fields = String::from_utf8_lossy(entry.get(..length).unwrap_or_default());
                        writer.push(fields.trim_end().replace('\n', " | "));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Self { entries, _alive: alive }
    }

    /// The received entries, one for each line: `FIELD=value | FIELD=value`.
    #[must_use]
    pub fn entries(&self) -> &Lines {
        &self.entries
    }
}
