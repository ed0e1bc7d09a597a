//! The messages on the socketpair between the announcer and the sniffer: one enum for each direction.
//!
//! Each message is one datagram of a `SOCK_SEQPACKET` socketpair: the byte [`VERSION`], followed by the message in the
//! binary format of the postcard crate.
//! Both programs come from the same build, so a different version indicates a mixed installation, and the service
//! exits. The announcer treats each message as hostile input: [`FromSniffer::decode`] checks the length and the
//! version, checks that the message ends where the datagram ends, and validates every value, either through its type or
//! in `within_limits`.

use core::num::NonZeroU32;

use serde::ser::{SerializeStructVariant, Serializer};
use serde::{Deserialize, Serialize};

mod counters;

use crate::{CapturedPacket, MacAddr};

pub use counters::{Counters, Suppressed};

/// The version of the messages. Every change to a message increases it.
pub const VERSION: u8 = 4;

/// The maximum length of a message, in bytes. A [`CapturedPacket`] is shorter than 120 bytes; the longest message is a
/// failure report.
pub const MAX_MESSAGE: usize = 512;

/// The maximum length of the reason in a failure report, in bytes.
pub const MAX_REASON: usize = 300;

/// The maximum number of UDP ports for which the payload is searched in full.
pub const MAX_PORTS: usize = 64;

/// The maximum number of packet sockets for incoming frames, if each is bound to one interface.
pub const MAX_BOUND: usize = 8;

/// The number of items in one [`Change`].
pub const BATCH: usize = 32;

/// The maximum number of addresses of interest.
pub const MAX_ADDRESSES: usize = 100_000;

/// The maximum number of excluded interfaces. On further interfaces, only the announcer drops packets.
pub const MAX_EXCLUDED: usize = 4096;

/// The maximum number of interfaces on which outgoing frames are captured.
pub const MAX_OUTGOING: usize = 16;

/// The maximum number of UDP sockets that are passed to the sniffer.
pub const MAX_UDP_SOCKETS: usize = 16;

/// The capture mode that the announcer requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// UDP sockets, and packet sockets if the sniffer has CAP_NET_RAW.
    Auto,
    /// Packet sockets; without CAP_NET_RAW, the sniffer fails.
    Raw,
    /// Only UDP sockets.
    Udp,
}

/// The capture mode of the sniffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Packet sockets, and the UDP sockets that were passed to it.
    Raw,
    /// Only the UDP sockets that were passed to it.
    Udp,
}

/// The first message to the sniffer. The UDP sockets accompany it (`SCM_RIGHTS`, unix(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The requested mode.
    pub request: Request,
    /// The UDP ports for which the payload is searched in full: at most [`MAX_PORTS`].
    pub ports: Vec<u16>,
    /// The number of packet sockets that are each bound to one interface, at most [`MAX_BOUND`]. With 0, there is one
    /// socket for incoming frames, which begins with all interfaces.
    pub bound: u8,
    /// The number of interfaces on which outgoing frames are captured: at most [`MAX_OUTGOING`].
    pub outgoing: u8,
    /// The limit of packets per second for addresses that are not of interest, on each interface.
    pub limit: u32,
    /// Whether to exit if Landlock cannot be enforced.
    pub require_landlock: bool,
}

/// A message to the sniffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSniffer {
    /// The parameters; sent once, as the first message.
    Start(Start),
    /// Capture incoming frames with one of the sockets.
    Incoming {
        /// The index of the sniffer's socket for incoming frames: less than [`Start::bound`], or 0.
        slot: u8,
        /// Where it captures.
        source: Source,
    },
    /// Capture outgoing frames on this interface.
    Outgoing {
        /// The index of the sniffer's socket for outgoing frames: less than [`Start::outgoing`].
        slot: u8,
        /// The kernel's index of the interface; never 0, which means every interface in bind(2).
        interface: u32,
    },
    /// Send the counters soon. A sniffer that hangs does not reply.
    Report,
    /// Change what is dropped. The sniffer replies with [`FromSniffer::Applied`], and the announcer sends the next change
    /// only then. Until all changes have arrived, the sniffer passes more or fewer packets for addresses that changed.
    Change(Change),
}

/// The interfaces from which a socket for incoming frames receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// All interfaces.
    All,
    /// The interface with this index of the kernel.
    Interface(NonZeroU32),
    /// None. The socket is bound to the interface with this index, because a bound socket cannot be unbound, and its
    /// frames are dropped.
    None(NonZeroU32),
}

/// A change of what the sniffer drops. If it concerns fewer than [`BATCH`] items, one of them is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The limit of packets per second for addresses that are not of interest, on each interface.
    Limit(u32),
    /// The addresses of interest, at most [`MAX_ADDRESSES`] in all.
    Interest {
        /// Whether these addresses become addresses of interest or cease to be.
        added: bool,
        /// The addresses.
        addresses: [MacAddr; BATCH],
    },
    /// The interfaces whose packets are dropped, at most [`MAX_EXCLUDED`] in all.
    Excluded {
        /// Whether these interfaces become excluded or cease to be.
        added: bool,
        /// The kernel's indexes.
        interfaces: [u32; BATCH],
    },
}

/// A message from the sniffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSniffer {
    /// The sandbox is complete and the sniffer begins to read packets; sent once, as the first message.
    Ready {
        /// The capture mode.
        mode: Mode,
        /// Whether Landlock is enforced.
        landlock: bool,
    },
    /// The sniffer cannot continue; sent as the last message.
    Failed {
        /// The cause and the solution: at most [`MAX_REASON`] bytes.
        reason: String,
    },
    /// A magic packet.
    Packet(CapturedPacket),
    /// The current counters; sent at most once a second, after a change or a [`ToSniffer::Report`].
    Counters(Counters),
    /// The last [`ToSniffer::Change`] is in effect.
    Applied,
}

/// Why a datagram is not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// An empty datagram.
    #[error("an empty message")]
    Empty,
    /// More than [`MAX_MESSAGE`] bytes.
    #[error("a message of {0} bytes; the maximum is {MAX_MESSAGE}")]
    TooLong(usize),
    /// A different version.
    #[error(
        "a message of version {0} instead of {VERSION}: the two programs are from different builds; reinstall both"
    )]
    Version(u8),
    /// An unknown message, or an invalid value in a field.
    #[error("an invalid message")]
    Malformed,
    /// Bytes after the end of the message.
    #[error("a message followed by excess bytes ({0})")]
    Trailing(usize),
    /// A string, list or number that exceeds its limit, in an outgoing message.
    #[error("a message with a string, list or number that exceeds its limit")]
    OverLimit,
}

/// The limits of a message that its types do not enforce.
trait Limits {
    /// Whether each string, list and number is within its limit.
    fn within_limits(&self) -> bool;
}

impl Limits for ToSniffer {
    fn within_limits(&self) -> bool {
        match self {
            Self::Start(start) => {
                start.ports.len() <= MAX_PORTS
                    && usize::from(start.bound) <= MAX_BOUND
                    && usize::from(start.outgoing) <= MAX_OUTGOING
            }
            Self::Incoming { slot, .. } => usize::from(*slot) < MAX_BOUND,
            Self::Outgoing { slot, interface } => usize::from(*slot) < MAX_OUTGOING && *interface != 0,
            Self::Report | Self::Change(_) => true,
        }
    }
}

impl Limits for FromSniffer {
    fn within_limits(&self) -> bool {
        match self {
            Self::Failed { reason } => reason.len() <= MAX_REASON,
            Self::Ready { .. } | Self::Packet(_) | Self::Counters(_) | Self::Applied => true,
        }
    }
}

macro_rules! message {
    ($type:ty) => {
        impl $type {
            /// Encodes the message into the buffer, and returns the part of the buffer that it occupies.
            ///
            /// # Errors
            /// [`BadMessage::OverLimit`] if a string, list or number exceeds its limit.
            pub fn encode<'buffer>(
                &self,
                buffer: &'buffer mut [u8; MAX_MESSAGE],
            ) -> Result<&'buffer [u8], BadMessage> {
                encode(self, buffer)
            }

            /// Parses a datagram, which must contain exactly one message.
            ///
            /// # Errors
            /// [`BadMessage`] describes the problem.
            pub fn decode(datagram: &[u8]) -> Result<Self, BadMessage> {
                decode(datagram)
            }
        }
    };
}

message!(ToSniffer);
message!(FromSniffer);

/// Encodes a [`FromSniffer::Failed`] with this reason, without allocating memory.
///
/// # Errors
/// [`BadMessage::OverLimit`] if the reason is longer than [`MAX_REASON`].
pub fn encode_failure<'buffer>(
    reason: &str,
    buffer: &'buffer mut [u8; MAX_MESSAGE],
) -> Result<&'buffer [u8], BadMessage> {
    encode(&Failure { reason }, buffer)
}

/// [`FromSniffer::Failed`] with a borrowed reason.
struct Failure<'a> {
    reason: &'a str,
}

impl Limits for Failure<'_> {
    fn within_limits(&self) -> bool {
        self.reason.len() <= MAX_REASON
    }
}

impl Serialize for Failure<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut message = serializer.serialize_struct_variant("FromSniffer", 1, "Failed", 1)?;
        message.serialize_field("reason", self.reason)?;
        message.end()
    }
}

fn encode<'buffer, Message: Serialize + Limits>(
    message: &Message,
    buffer: &'buffer mut [u8; MAX_MESSAGE],
) -> Result<&'buffer [u8], BadMessage> {
    if !message.within_limits() {
        return Err(BadMessage::OverLimit);
    }
    let [version, body @ ..] = buffer;
    *version = VERSION;
    let length = postcard::to_slice(message, body).map_err(|_| BadMessage::OverLimit)?.len();
    buffer.get(..=length).ok_or(BadMessage::OverLimit)
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
