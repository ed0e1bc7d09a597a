//! The agent that asks for passwords on the terminal, for polkit: pkttyagent(1), as systemctl(1) starts it.

use std::io::{self, IsTerminal as _, Read as _};
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;

/// A running agent. It stops when this value is dropped.
#[derive(Debug)]
pub(super) struct PasswordAgent(Child);

impl PasswordAgent {
    /// Starts the agent, and waits until it is registered with polkit. Returns `None` for root, without a terminal, and if
    /// pkttyagent is not installed.
    pub(super) fn start() -> Option<Self> {
        if geteuid().is_root() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        // The agent closes the descriptor when it is registered. It asks on the terminal, not on standard output.
        let mut command = Command::new("pkttyagent");
        let mut agent =
            Self(command.args(["--notify-fd", "1", "--fallback"]).stdout(Stdio::piped()).spawn().ok()?);
        let mut registered = agent.0.stdout.take()?;
        let _ = registered.read(&mut [0]);
        Some(agent)
    }
}

impl Drop for PasswordAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
