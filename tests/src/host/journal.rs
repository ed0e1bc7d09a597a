//! The socket of a journal: systemd.journal-fields(7), "Native Journal Protocol".

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::process::lines::Lines;

/// Where programs look for the journal.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Takes the place of systemd-journald on a host until it is dropped.
#[derive(Debug)]
pub struct Journal {
    entries: Lines,
    /// The thread that reads goes when this does.
    _alive: Arc<()>,
}

impl Journal {
    /// Opens the journal's socket on the host, for everyone as the real one.
    ///
    /// # Panics
    /// If that fails, as it does where there is one.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let path = host.path(SOCKET);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder in /run");
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

    /// The entries, a line for each, as they were sent: `FIELD=value | FIELD=value`.
    #[must_use]
    pub fn entries(&self) -> &Lines {
        &self.entries
    }
}
