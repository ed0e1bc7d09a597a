//! Prevents libvirt from starting a session daemon.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The environment variable that controls whether libvirt starts a session daemon.
const AUTOSTART: &str = "LIBVIRT_AUTOSTART";

/// Ensures that a connection to a session daemon never starts a second daemon next to one that is running or starting:
/// sets `LIBVIRT_AUTOSTART` to 0 unless it is already set. libvirt reads this variable from the environment.
///
/// The environment of a running process cannot be changed safely, so the program executes itself again with the
/// variable set. Call this before the process has any state to lose.
///
/// # Errors
/// If the program cannot be executed.
pub(super) fn forbid(uris: &[String]) -> io::Result<()> {
    let session = uris.iter().any(|uri| is_session(uri));
    if !session || std::env::var_os(AUTOSTART).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    Err(Command::new(program).args(std::env::args_os().skip(1)).env(AUTOSTART, "0").exec())
}

/// Whether this is the URI of a user's own daemon: <https://libvirt.org/uri.html>.
fn is_session(uri: &str) -> bool {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    path.ends_with("/session")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_session_uris() {
        for (uri, session) in [
            ("qemu:///session", true),
            ("qemu:///session?socket=/run/user/1000/libvirt/libvirt-sock", true),
            ("qemu+ssh://user@host/session", true),
            ("qemu:///system", false),
            ("test:///default", false),
            ("lxc:///system", false),
            ("qemu:///system?x=/session", false),
        ] {
            assert_eq!(is_session(uri), session, "{uri}");
        }
    }
}
