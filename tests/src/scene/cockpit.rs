//! Cockpit on a booted Debian system.

use std::process::Command;

use crate::debian::Debian;
use crate::process::Process;

/// The frame of wakevirt's page in Cockpit's shell.
pub const FRAME: &str = "cockpit1:localhost/wakevirt";

/// Starts cockpit-ws at this address with a session of this user, without a login.
pub fn start(debian: &Debian<'_>, user: &str, address: &str) -> Process {
    let program = "/usr/lib/cockpit/cockpit-ws";
    let mut command: Command = match user {
        "root" => debian.command(program),
        user => debian.command_as(user, program),
    };
    // Without a session bus, Cockpit 337 exits when its pages are loaded again.
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket");
    command.env("HOME", "/nonexistent").args([
        "--no-tls",
        "--port=9090",
        "--local-session=/usr/bin/cockpit-bridge",
    ]);
    Process::start("cockpit-ws", command.args(["--address", address]))
}
