//! QEMU's monitor: the [QEMU Machine Protocol](https://www.qemu.org/docs/master/interop/qmp-spec.html) (QMP).

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::vm::channel::Channel;

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Monitor(Channel);

impl Monitor {
    /// Connects to it.
    ///
    /// # Panics
    /// If it does not reply in time.
    pub fn connect(path: &Path) -> Self {
        let mut monitor = Self(Channel::connect(path));
        // Until then, it sends no events and accepts no other command.
        monitor.execute("qmp_capabilities").expect("QEMU's monitor replies");
        monitor
    }

    /// Runs a command that has no arguments, and returns its result. Events that occurred earlier are lost.
    pub fn execute(&mut self, command: &str) -> io::Result<Value> {
        self.0.send(&format!("{}\n", json!({ "execute": command })))?;
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
        while self.read()?.get("event").and_then(Value::as_str) != Some(event) {}
        Ok(())
    }

    fn read(&mut self) -> io::Result<Value> {
        serde_json::from_str(&self.0.read_line()?).map_err(io::Error::other)
    }
}
