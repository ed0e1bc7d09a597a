//! The agent that asks for passwords on the terminal, for polkit: pkttyagent(1), as systemctl(1) starts it.

use std::io::{self, IsTerminal as _, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// How long the agent has to exit, and how often to check whether it has.
const EXIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(5));

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
        // The agent closes the descriptor when it is registered. It asks on the terminal, not on standard output. On
        // standard error, it only reports that polkit is not running, which does not prevent the wake.
        let mut command = Command::new("pkttyagent");
        command.args(["--notify-fd", "1"]).stdout(Stdio::piped()).stderr(Stdio::null());
        // The agent of a desktop takes precedence. Elsewhere, the option is wrong: polkit ignores such an agent if the
        // caller is not in a login session, for example in a container.
        if ["WAYLAND_DISPLAY", "DISPLAY"].iter().any(|name| std::env::var_os(name).is_some()) {
            command.arg("--fallback");
        }
        let mut agent = Self(command.spawn().ok()?);
        let mut registered = agent.0.stdout.take()?;
        let _ = registered.read(&mut [0]);
        Some(agent)
    }
}

impl Drop for PasswordAgent {
    fn drop(&mut self) {
        // On this signal, the agent enables the echo of the terminal again.
        let _ = i32::try_from(self.0.id()).map(|id| kill(Pid::from_raw(id), Signal::SIGTERM));
        let (time, interval) = EXIT;
        let deadline = Instant::now() + time;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(interval);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
