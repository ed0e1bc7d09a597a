//! QEMU's monitor: the [QEMU Machine Protocol](https://www.qemu.org/docs/master/interop/qmp-spec.html) (QMP).

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::wait;

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// Connects to it.
    ///
    /// # Panics
    /// If it does not reply within `timeout`. This is also the timeout of all other functions.
    pub fn connect(path: &Path, timeout: Duration) -> Self {
        let socket = wait::until("QEMU's monitor", || UnixStream::connect(path).ok());
        socket.set_read_timeout(Some(timeout)).expect("a timeout");
        let mut monitor = Self(BufReader::new(socket));
        // Until then, it sends no events and accepts no other command.
        monitor.execute("qmp_capabilities").expect("QEMU's monitor replies");
        monitor
    }

    /// Runs a command that has no arguments, and returns its result. Events that occurred earlier are lost.
    pub fn execute(&mut self, command: &str) -> io::Result<Value> {
        self.0.get_mut().write_all(format!("{}\n", json!({ "execute": command })).as_bytes())?;
        loop {
            let message = self.read()?;
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
        }
    }

    /// Waits for an event.
    pub fn wait_for(&mut self, event: &str) -> io::Result<()> {
        while self.read()?.get("event").is_none_or(|name| name != event) {}
        Ok(())
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::Error::other("QEMU has exited")),
            _ => serde_json::from_str(&line).map_err(io::Error::other),
        }
    }
}
