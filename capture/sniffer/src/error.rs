//! The errors of the sniffer.

use std::io;

use wakevirt_protocol::sniffer::BadMessage;

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
    #[error("the socketpair to the announcer failed: {0}")]
    Channel(#[source] io::Error),
    /// The mode requires a packet socket, but the process does not have `CAP_NET_RAW`.
    #[error(
        "mode = \"raw\" needs CAP_NET_RAW, which the process does not have; start the service with its unit or as root, or set mode = \"auto\" or \"udp\""
    )]
    NotPrivileged,
    /// A packet socket cannot be set up.
    #[error("cannot {action} a packet socket: {error}")]
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
    #[error("cannot read a socket: {0}")]
    Receive(#[source] io::Error),
    /// poll(2) failed.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] io::Error),
}
