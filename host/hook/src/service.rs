//! The connection to wakevirt-host.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};
use wakevirt_protocol::host::{MAX_REPLY, MAX_WAIT, Reply, SOCKET, WAIT};

/// Sends the name of the entry to the service, and waits until it has handled the entry. Returns the reason if the
/// service refuses it. `start` is the time from which [`WAIT`] and [`MAX_WAIT`] count.
///
/// Returns an error if the service is not running or does not answer in time. The entry then remains in the spool.
pub fn ask(entry: &str, start: Instant) -> io::Result<Option<String>> {
    let mut deadline = start + WAIT;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Limits connect(2) as well, which waits while the service's queue of connections is full.
    set_socket_timeout(&socket, Timeout::Send, Some(remaining(deadline)))?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    send(&socket, entry.as_bytes(), SendFlags::NOSIGNAL)?;
    loop {
        match receive(&socket, deadline)? {
            Reply::Done => return Ok(None),
            Reply::Refused(reason) => return Ok(Some(reason)),
            Reply::Wait(time) => deadline = extended(start, Instant::now(), time),
        }
    }
}

/// The deadline after the service has asked for this much time.
fn extended(start: Instant, now: Instant, time: Duration) -> Instant {
    (now + time).min(start + MAX_WAIT)
}

fn receive(socket: &OwnedFd, deadline: Instant) -> io::Result<Reply> {
    let mut message = [0; MAX_REPLY];
    loop {
        if Instant::now() >= deadline {
            return Err(Errno::TIMEDOUT.into());
        }
        set_socket_timeout(socket, Timeout::Recv, Some(remaining(deadline)))?;
        match recv(socket, &mut message, RecvFlags::empty()) {
            Ok((length, _)) => {
                let message = message.get(..length).unwrap_or_default();
                return Reply::decode(message)
                    .ok_or_else(|| io::Error::other("it closed the connection, or its reply is invalid"));
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time until the deadline, but not zero, which would mean no limit (socket(7), SO_RCVTIMEO).
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_cannot_extend_the_deadline_beyond_the_maximum() {
        let start = Instant::now();
        let (now, long) = (start + MAX_WAIT - Duration::from_secs(5), Duration::from_millis(u32::MAX.into()));
        assert_eq!(extended(start, now, Duration::from_secs(3)), now + Duration::from_secs(3));
        assert_eq!(extended(start, now, long), start + MAX_WAIT);
    }
}
