//! The sniffer's end of the socketpair.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketType, recvmsg, send,
};
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_REASON, MAX_UDP_SOCKETS, Start, ToSniffer};

use crate::error::Error;

/// How long a failure report waits if the socketpair is full. If the announcer has exited, sending fails immediately.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(5);

/// The socketpair to the announcer, which is the sniffer's standard input.
#[derive(Clone, Copy)]
pub struct Channel(BorrowedFd<'static>);

impl Channel {
    /// Uses standard input, which must be a socketpair.
    ///
    /// # Errors
    /// `Error::NotStartedByCapture` if it is not a socketpair.
    pub fn on_standard_input() -> Result<Self, Error> {
        let stdin = rustix::stdio::stdin();
        match socket_type(stdin) {
            Ok(SocketType::SEQPACKET) => Ok(Self(stdin)),
            _ => Err(Error::NotStartedByCapture),
        }
    }

    /// Waits for the first message and the UDP sockets that it passes.
    pub(super) fn start(self) -> Result<(Start, Vec<OwnedFd>), Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_UDP_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| channel_error(error.into()))?;
        let sockets = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
                _ => None,
            })
            .flatten()
            .collect();
        match Self::decode(buffer.get(..received.bytes).unwrap_or_default())? {
            ToSniffer::Start(start) => Ok((start, sockets)),
            ToSniffer::Outgoing { .. } | ToSniffer::Report => Err(Error::UnexpectedMessage),
        }
    }

    /// Receives a message, if one is pending.
    pub(super) fn receive(self) -> Result<Option<ToSniffer>, Error> {
        let mut buffer = [0; MAX_MESSAGE];
        match crate::ffi::receive(self.0, &mut buffer) {
            Ok(envelope) => Self::decode(buffer.get(..envelope.length).unwrap_or_default()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(channel_error(error)),
        }
    }

    fn decode(datagram: &[u8]) -> Result<ToSniffer, Error> {
        if datagram.is_empty() {
            // The end of a SOCK_SEQPACKET connection reads as an empty datagram.
            return Err(Error::AnnouncerExited);
        }
        Ok(ToSniffer::decode(datagram)?)
    }

    /// Sends a message, or returns [`SendOutcome::Full`]: apart from a failure report, no message waits for space in
    /// the socketpair.
    pub(super) fn send(self, message: &FromSniffer) -> Result<SendOutcome, Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = message.encode(&mut buffer)?;
        match send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Ok(SendOutcome::Sent),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(SendOutcome::Full),
            Err(error) => Err(channel_error(error.into())),
        }
    }

    /// Limits how long a failure report waits for space in the socketpair: `SO_SNDTIMEO` (socket(7)). No
    /// other message waits.
    pub(super) fn limit_failure_wait(self) -> Result<(), Error> {
        set_socket_timeout(self.0, Timeout::Send, Some(FAILURE_TIMEOUT))
            .map_err(|error| Error::Channel(error.into()))
    }

    /// Reports why the sniffer exits. If the socketpair is full, waits for a limited time.
    pub(super) fn send_failure(self, reason: &str) {
        let mut buffer = [0; MAX_MESSAGE];
        let message = FromSniffer::Failed { reason: truncate(reason).to_owned() };
        if let Ok(bytes) = message.encode(&mut buffer) {
            // If sending fails, there is no other way to report the reason.
            let _result = send(self.0, bytes, SendFlags::NOSIGNAL);
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

/// Converts an error from the socketpair. An announcer that exits with unread messages resets the connection.
fn channel_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::AnnouncerExited,
        _ => Error::Channel(error),
    }
}

/// Truncates a reason to its maximum length.
fn truncate(reason: &str) -> &str {
    reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default()
}

/// The outcome of sending a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum SendOutcome {
    /// The message was sent.
    Sent,
    /// The socketpair is full.
    Full,
}
