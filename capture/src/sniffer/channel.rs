//! The sniffer's end of the socketpair.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_type;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketType, recvmsg, send,
};
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_UDP_SOCKETS, Start, ToSniffer};

use super::{Error, cut};

/// The socketpair to the announcer, which is the sniffer's standard input.
#[derive(Clone, Copy)]
pub(super) struct Channel(BorrowedFd<'static>);

impl Channel {
    /// Takes standard input, where it is a socketpair.
    pub(super) fn on_standard_input() -> Result<Self, Error> {
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
            .map_err(|error| Error::Channel(error.into()))?;
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
        match super::ffi::receive(self.0, &mut buffer) {
            Ok(envelope) => Self::read(buffer.get(..envelope.length).unwrap_or_default()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::Channel(error)),
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
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::AnnouncerGone),
            Err(error) => Err(Error::Channel(error.into())),
        }
    }

    /// Says why the sniffer ends, as far as that can still be said.
    pub(super) fn say_last(self, reason: &str) {
        let _unsaid = self.say(&FromSniffer::Failed { reason: cut(reason).to_owned() });
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
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
