//! The errors of the sniffer.

use std::fmt::{self, Display, Formatter};
use std::io;

use wakevirt_protocol::sniffer::BadMessage;

use crate::ffi;

/// The sniffer cannot start or cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input is not the socketpair.
    #[error(
        "wakevirt-sniffer must be started by wakevirt-capture, with a socketpair as its standard input; start wakevirt-capture instead"
    )]
    NotStartedByCapture,
    /// The announcer has exited, so the sniffer also exits.
    #[error("the announcer exited")]
    AnnouncerExited,
    /// The announcer's message cannot be decoded.
    #[error("the announcer sent {0}")]
    BadMessage(#[from] BadMessage),
    /// The announcer sent a message that is not allowed in this state.
    #[error("the announcer sent an unexpected message")]
    UnexpectedMessage,
    /// The signal dispositions cannot be set.
    #[error("cannot set the signal dispositions: {0}")]
    Signals(#[source] io::Error),
    /// The socketpair failed.
    #[error("the socketpair to the announcer failed: {}", Plain(.0))]
    Channel(#[source] io::Error),
    /// The mode requires a packet socket, but the process does not have `CAP_NET_RAW`.
    #[error(
        "mode = \"raw\" needs CAP_NET_RAW, which the process does not have; start the service with its unit or as root, or set mode = \"auto\" or \"udp\""
    )]
    NotPrivileged,
    /// A packet socket cannot be set up.
    #[error("cannot {action} a packet socket: {}", Plain(.error))]
    PacketSocket {
        /// The step that failed.
        action: &'static str,
        /// The cause.
        error: io::Error,
    },
    /// A UDP socket cannot be set up.
    #[error("cannot {action} a UDP socket: {error}")]
    UdpSocket {
        /// The step that failed.
        action: &'static str,
        /// The cause.
        error: io::Error,
    },
    /// There is no socket from which to receive packets.
    #[error(
        "neither a packet socket nor a UDP socket is available; enable wakevirt-capture.socket, which passes UDP sockets, or set `listen` to a free port (above 1023 if the service is not privileged)"
    )]
    NoSocket,
    /// The capabilities cannot be dropped.
    #[error(transparent)]
    Capabilities(#[from] wakevirt_privilege::Error),
    /// Another stage of the sandbox failed.
    #[error("cannot {stage}: {reason}")]
    Sandbox {
        /// The stage that failed.
        stage: &'static str,
        /// The cause.
        reason: String,
    },
    /// A socket can no longer be read.
    #[error("cannot read a socket: {}", Plain(.0))]
    Receive(#[source] io::Error),
    /// poll(2) failed.
    #[error("cannot wait for packets: {}", Plain(.0))]
    Wait(#[source] io::Error),
}

/// Displays an error of the kernel like the standard library, which allocates memory for it.
struct Plain<'a>(&'a io::Error);

impl Display for Plain<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(code) => {
                let mut buffer = [0; ffi::MAX_DESCRIPTION];
                let text = ffi::describe(code, &mut buffer);
                write!(formatter, "{text} (os error {code})")
            }
            None => self.0.fmt(formatter),
        }
    }
}
