//! What may cross the socketpair between the announcer and the sniffer: one list for each way.
//!
//! Each message is one datagram of a `SOCK_SEQPACKET` socketpair: the byte [`VERSION`], then the
//! message in postcard. Both binaries come from one build, so another version means a mixed
//! installation and ends the service. The announcer reads every message as coming from an enemy:
//! [`FromSniffer::decode`] checks the length, the version, that the message ends where the datagram
//! does, and every value: by the types, and where these allow more than the list, by `within_limits`.

use serde::{Deserialize, Serialize};

use crate::CapturedPacket;

/// The version of this list; every change of a message raises it.
pub const VERSION: u8 = 3;

/// The longest message, in bytes. A [`CapturedPacket`] takes less than 120; the text of a failure most.
pub const MAX_MESSAGE: usize = 512;

/// The longest text of a failure, in bytes.
pub const MAX_REASON: usize = 300;

/// The greatest number of UDP ports whose payload is searched in full.
pub const MAX_PORTS: usize = 64;

/// The greatest number of interfaces whose outgoing frames are heard as well.
pub const MAX_OUTGOING: usize = 16;

/// The greatest number of UDP sockets that are handed to the sniffer.
pub const MAX_UDP_SOCKETS: usize = 16;

/// How the sniffer is to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Packet sockets where the privilege is there, UDP sockets in any case.
    Auto,
    /// Packet sockets, or fail.
    Raw,
    /// UDP sockets alone.
    Udp,
}

/// How the sniffer hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// By packet sockets, and the UDP sockets that it was given.
    Raw,
    /// By the UDP sockets that it was given, alone.
    Udp,
}

/// The first message to the sniffer. The UDP sockets come with it (`SCM_RIGHTS`, unix(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// How it is to hear.
    pub request: Request,
    /// UDP ports whose payload is searched in full: at most [`MAX_PORTS`].
    pub ports: Vec<u16>,
    /// How many interfaces' outgoing frames are to be heard: at most [`MAX_OUTGOING`].
    pub outgoing: u8,
    /// Whether a kernel without Landlock is a reason to end.
    pub require_landlock: bool,
}

/// What the announcer says to the sniffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSniffer {
    /// How to start; said once, first.
    Start(Start),
    /// Hear the frames that leave through this interface from now on.
    Outgoing {
        /// Which of the sniffer's sockets for outgoing frames: less than [`Start::outgoing`].
        slot: u8,
        /// The kernel's index of the interface, never 0: to bind(2), that is every interface.
        interface: u32,
    },
    /// Say the counters, soon: a sniffer that hangs does not.
    Report,
}

/// What the sniffer says to the announcer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSniffer {
    /// The sandbox is closed and the first packet is about to be read; said once, first.
    Ready {
        /// How it hears.
        mode: Mode,
        /// Whether Landlock is in force.
        landlock: bool,
    },
    /// It cannot go on; said last.
    Failed {
        /// What failed, and what to do: at most [`MAX_REASON`] bytes.
        reason: String,
    },
    /// A magic packet.
    Packet(CapturedPacket),
    /// How much was seen and lost until now; said at most once a second, when something changed
    /// or [`ToSniffer::Report`] asked for them.
    Counters(Counters),
}

/// What the sniffer counts, since it started; no count ever falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames and datagrams that passed the kernel's filter and held no magic packet.
    pub malformed: u64,
    /// Frames and datagrams that held a magic packet and went on beyond what is searched
    /// ([`crate::frame::SEARCHED`]): more may have been in the rest.
    pub truncated: u64,
    /// Frames that the kernel dropped because the packet sockets' buffers were full.
    pub dropped_raw: u64,
    /// Datagrams that the kernel dropped because the UDP sockets' buffers were full.
    pub dropped_udp: u64,
    /// Magic packets that were dropped because the announcer was too slow to take them.
    pub dropped_channel: u64,
}

impl Counters {
    /// What the kernel dropped before the sniffer could read it. The counts may be an enemy's.
    #[must_use]
    pub const fn dropped_by_kernel(&self) -> u64 {
        self.dropped_raw.saturating_add(self.dropped_udp)
    }

    /// Whether these can follow the earlier ones: no count falls.
    #[must_use]
    pub const fn can_follow(&self, earlier: &Self) -> bool {
        self.malformed >= earlier.malformed
            && self.truncated >= earlier.truncated
            && self.dropped_raw >= earlier.dropped_raw
            && self.dropped_udp >= earlier.dropped_udp
            && self.dropped_channel >= earlier.dropped_channel
    }
}

/// Why a datagram is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Nothing in it.
    #[error("an empty message")]
    Empty,
    /// More than [`MAX_MESSAGE`] bytes.
    #[error("a message of {0} bytes, where {MAX_MESSAGE} are the most")]
    TooLong(usize),
    /// Another version of this list.
    #[error(
        "a message of version {0}, where {VERSION} is spoken: the two programs are from different builds; install both again"
    )]
    Version(u8),
    /// No message of this list, or a value that a field cannot have.
    #[error("a message that cannot be read")]
    Malformed,
    /// A message, and more behind it.
    #[error("a message with {0} bytes behind its end")]
    Trailing(usize),
    /// A message that is to be written, and holds more than is allowed.
    #[error("a message with a longer text or list, or a greater number, than is allowed")]
    DoesNotFit,
}

/// What the types do not say about the values of a message.
trait Limits {
    /// Whether each text and list in it is as short, and each number as small, as the list says.
    fn within_limits(&self) -> bool;
}

impl Limits for ToSniffer {
    fn within_limits(&self) -> bool {
        match self {
            Self::Start(start) => {
                start.ports.len() <= MAX_PORTS && usize::from(start.outgoing) <= MAX_OUTGOING
            }
            Self::Outgoing { slot, interface } => usize::from(*slot) < MAX_OUTGOING && *interface != 0,
            Self::Report => true,
        }
    }
}

impl Limits for FromSniffer {
    fn within_limits(&self) -> bool {
        match self {
            Self::Failed { reason } => reason.len() <= MAX_REASON,
            Self::Ready { .. } | Self::Packet(_) | Self::Counters(_) => true,
        }
    }
}

macro_rules! message {
    ($type:ty) => {
        impl $type {
            /// Writes the message to the buffer, and returns the part of it that is to be sent.
            ///
            /// # Errors
            /// [`BadMessage::DoesNotFit`] where a text or list in it is longer, or a number greater, than allowed.
            pub fn encode<'buffer>(
                &self,
                buffer: &'buffer mut [u8; MAX_MESSAGE],
            ) -> Result<&'buffer [u8], BadMessage> {
                encode(self, buffer)
            }

            /// Reads the message that is all of this datagram.
            ///
            /// # Errors
            /// [`BadMessage`] says what is wrong with it.
            pub fn decode(datagram: &[u8]) -> Result<Self, BadMessage> {
                decode(datagram)
            }
        }
    };
}

message!(ToSniffer);
message!(FromSniffer);

fn encode<'buffer, Message: Serialize + Limits>(
    message: &Message,
    buffer: &'buffer mut [u8; MAX_MESSAGE],
) -> Result<&'buffer [u8], BadMessage> {
    if !message.within_limits() {
        return Err(BadMessage::DoesNotFit);
    }
    let [version, body @ ..] = buffer;
    *version = VERSION;
    let length = postcard::to_slice(message, body).map_err(|_| BadMessage::DoesNotFit)?.len();
    buffer.get(..=length).ok_or(BadMessage::DoesNotFit)
}

fn decode<'datagram, Message: Deserialize<'datagram> + Limits>(
    datagram: &'datagram [u8],
) -> Result<Message, BadMessage> {
    if datagram.len() > MAX_MESSAGE {
        return Err(BadMessage::TooLong(datagram.len()));
    }
    match datagram {
        [] => Err(BadMessage::Empty),
        [VERSION, body @ ..] => match postcard::take_from_bytes::<Message>(body) {
            Ok((message, [])) if message.within_limits() => Ok(message),
            Ok((_, [])) => Err(BadMessage::Malformed),
            Ok((_, rest)) => Err(BadMessage::Trailing(rest.len())),
            Err(_) => Err(BadMessage::Malformed),
        },
        [version, ..] => Err(BadMessage::Version(*version)),
    }
}
