//! Keepalive messages, which detect a daemon that hangs.

use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;

/// The interval of keepalive messages, in seconds.
const INTERVAL: i32 = 5;
/// The number of unanswered keepalive messages after which libvirt closes the connection.
const COUNT: u32 = 3;

/// Starts keepalive, so that a hanging daemon is detected. Returns false if the connection has no daemon. libvirt
/// cannot start keepalive again after it was stopped (`virKeepAliveStart` in libvirt's virkeepalive.c).
///
/// This does not call the daemon: another thread can do it during a call. [`crate::events::start_loop`] must have been
/// called.
#[must_use]
pub fn start(connection: &Connect) -> bool {
    let result = connection.set_keep_alive(INTERVAL, COUNT);
    !result.is_err_and(|error| error.code() == Enum::Known(ErrorNumber::NoSupport))
}
