//! Messages to syslog: syslog(3). libvirt's daemon does not log what a hook prints, unless the hook fails.

use std::os::unix::net::UnixDatagram;

/// The socket of syslog.
const SOCKET: &str = "/dev/log";
/// The facility "daemon" and the severity "warning": RFC 5424, section 6.2.1.
const PRIORITY: u8 = 3 * 8 + 4;

/// Logs a warning. The syslog daemon adds the time.
pub fn warn(message: &str) {
    let message: String = message.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let line = format!("<{PRIORITY}>wakevirt-hook[{}]: {message}", std::process::id());
    let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    // Without a syslog daemon, there is nowhere else to log to.
    let _ = socket.and_then(|socket| socket.send_to(line.as_bytes(), SOCKET));
}
