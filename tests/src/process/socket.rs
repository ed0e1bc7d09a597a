//! A datagram socket that collects the messages of other processes.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::process::lines::Lines;

/// The maximum length of a message.
const MAX_MESSAGE: usize = 64 * 1024;
/// The interval at which the reading thread checks whether the socket was dropped.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A socket to which all users can write, until it is dropped.
#[derive(Debug)]
pub(crate) struct MessageSocket {
    lines: Lines,
    /// The reading thread exits when this is dropped.
    _alive: Arc<()>,
}

impl MessageSocket {
    /// Creates the socket at this path. `add` adds a message to the lines.
    ///
    /// # Panics
    /// If the socket cannot be created, for example because the path exists.
    pub(crate) fn bind(path: &Path, add: impl Fn(&Lines, &[u8]) + Send + 'static) -> Self {
        let socket = UnixDatagram::bind(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
            .expect("the mode of the socket");
        socket.set_read_timeout(Some(CHECK_INTERVAL)).expect("a timeout");
        let (lines, alive) = (Lines::default(), Arc::new(()));
        let (writer, watch) = (lines.clone(), Arc::downgrade(&alive));
        std::thread::spawn(move || {
            let mut message = vec![0; MAX_MESSAGE];
            while watch.strong_count() > 0 {
                match socket.recv(&mut message) {
                    Ok(length) => add(&writer, message.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Self { lines, _alive: alive }
    }

    /// The received lines.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }
}
