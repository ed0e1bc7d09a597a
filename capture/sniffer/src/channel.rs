//! The sniffer's end of the socketpair.

use std::fmt::{self, Write};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketType, recvmsg, send,
};
use wakevirt_protocol::sniffer::{
    FromSniffer, MAX_MESSAGE, MAX_REASON, MAX_UDP_SOCKETS, Start, ToSniffer, encode_failure,
};

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
            _ => Err(Error::UnexpectedMessage),
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
    pub(super) fn send_failure(self, reason: fmt::Arguments<'_>) {
        let mut text = Reason { bytes: [0; MAX_REASON], length: 0 };
        // An error means that the reason was truncated.
        let _result = text.write_fmt(reason);
        let mut buffer = [0; MAX_MESSAGE];
        if let Ok(bytes) = encode_failure(text.as_str(), &mut buffer) {
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

/// A reason, truncated to its maximum length. It is not a `String`, because an allocation can need a system call that
/// the sandbox forbids.
struct Reason {
    bytes: [u8; MAX_REASON],
    length: usize,
}

impl Reason {
    fn as_str(&self) -> &str {
        str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()).unwrap_or_default()
    }
}

impl Write for Reason {
    /// Fails after it has written as much of the text as fits.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        let written = text.get(..text.floor_char_boundary(free.len())).unwrap_or_default();
        free.get_mut(..written.len()).unwrap_or_default().copy_from_slice(written.as_bytes());
        self.length += written.len();
        if written.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncates_a_reason_at_a_character_and_adds_nothing_after_it() {
        let mut reason = Reason { bytes: [0; MAX_REASON], length: 0 };
        let fits = "x".repeat(MAX_REASON - 1);
        reason.write_fmt(format_args!("{fits}{}{}", "é", "y")).unwrap_err();
        assert_eq!(reason.as_str(), fits);
    }
}
