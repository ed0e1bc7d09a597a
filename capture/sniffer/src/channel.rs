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
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_UDP_SOCKETS, Start, ToSniffer};

use crate::{Error, cut};

/// How long the last words may wait for an announcer that is behind. One that has ended fails them at once.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The socketpair to the announcer, which is the sniffer's standard input.
#[derive(Clone, Copy)]
pub struct Channel(BorrowedFd<'static>);

impl Channel {
    /// Takes standard input, where it is a socketpair.
    ///
    /// # Errors
    /// [`Error::NotStartedByCapture`] where it is something else.
    pub fn on_standard_input() -> Result<Self, Error> {
        let stdin = rustix::stdio::stdin();
        match socket_type(stdin) {
            Ok(SocketType::SEQPACKET) => Ok(Self(stdin)),
            _ => Err(Error::NotStartedByCapture),
        }
    }

    /// Waits for the first message, and takes the UDP sockets that come with it.
    pub(super) fn start(self) -> Result<(Start, Vec<OwnedFd>), Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_UDP_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| broken(error.into()))?;
        let sockets = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
                _ => None,
            })
            .flatten()
            .collect();
        match Self::read(buffer.get(..received.bytes).unwrap_or_default())? {
            ToSniffer::Start(start) => Ok((start, sockets)),
            ToSniffer::Outgoing { .. } | ToSniffer::Report => Err(Error::OutOfTurn),
        }
    }

    /// Takes one message, if one is there.
    pub(super) fn take(self) -> Result<Option<ToSniffer>, Error> {
        let mut buffer = [0; MAX_MESSAGE];
        match crate::ffi::receive(self.0, &mut buffer) {
            Ok(envelope) => Self::read(buffer.get(..envelope.length).unwrap_or_default()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(broken(error)),
        }
    }

    fn read(datagram: &[u8]) -> Result<ToSniffer, Error> {
        if datagram.is_empty() {
            // The end of a SOCK_SEQPACKET connection reads as an empty datagram.
            return Err(Error::AnnouncerGone);
        }
        Ok(ToSniffer::decode(datagram)?)
    }

    /// Says this, or tells that the announcer has no room for it: nothing here ever waits for the
    /// announcer.
    pub(super) fn say(self, message: &FromSniffer) -> Result<Said, Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = message.encode(&mut buffer)?;
        match send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Ok(Said::Yes),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(Said::NoRoom),
            Err(error) => Err(broken(error.into())),
        }
    }

    /// Bounds how long the last words may wait for room in the socketpair: `SO_SNDTIMEO` (socket(7)). No
    /// other message waits.
    pub(super) fn bound_last_words(self) -> Result<(), Error> {
        set_socket_timeout(self.0, Timeout::Send, Some(LAST_WORDS))
            .map_err(|error| Error::Channel(error.into()))
    }

    /// Says why the sniffer ends. Waits for room if the announcer is behind, but not for ever.
    pub(super) fn say_last(self, reason: &str) {
        let mut buffer = [0; MAX_MESSAGE];
        let message = FromSniffer::Failed { reason: cut(reason).to_owned() };
        if let Ok(bytes) = message.encode(&mut buffer) {
            // There is nobody left to tell that this fails.
            let _unsaid = send(self.0, bytes, SendFlags::NOSIGNAL);
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

/// What an error of the socketpair means. An announcer that ends with messages unread resets the connection.
fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::AnnouncerGone,
        _ => Error::Channel(error),
    }
}

/// Whether a message went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Said {
    /// It did.
    Yes,
    /// The announcer is behind, and the socketpair full.
    NoRoom,
}
