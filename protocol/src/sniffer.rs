//! The messages on the socketpair between the announcer and the sniffer: one enum for each direction.
//!
//! Each message is one datagram of a `SOCK_SEQPACKET` socketpair: the byte [`VERSION`], followed by the message in the
//! binary format of the postcard crate.
//! Both programs come from the same build, so a different version indicates a mixed installation, and the service
//! exits. The announcer treats each message as hostile input: [`FromSniffer::decode`] checks the length and the
//! version, checks that the message ends where the datagram ends, and validates every value, either through its type or
//! in `within_limits`.

use serde::ser::{SerializeStructVariant, Serializer};
use serde::{Deserialize, Serialize};

use crate::CapturedPacket;

/// The version of the messages. Every change to a message increases it.
pub const VERSION: u8 = 3;

/// The maximum length of a message, in bytes. A [`CapturedPacket`] is shorter than 120 bytes; the longest message is a
/// failure report.
pub const MAX_MESSAGE: usize = 512;

/// The maximum length of the reason in a failure report, in bytes.
pub const MAX_REASON: usize = 300;

/// The maximum number of UDP ports for which the payload is searched in full.
pub const MAX_PORTS: usize = 64;

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
    /// The number of interfaces on which outgoing frames are captured: at most [`MAX_OUTGOING`].
    pub outgoing: u8,
    /// Whether to exit if Landlock cannot be enforced.
    pub require_landlock: bool,
}

/// A message to the sniffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSniffer {
    /// The parameters; sent once, as the first message.
    Start(Start),
    /// Capture outgoing frames on this interface.
    Outgoing {
        /// The index of the sniffer's socket for outgoing frames: less than [`Start::outgoing`].
        slot: u8,
        /// The kernel's index of the interface; never 0, which means every interface in bind(2).
        interface: u32,
    },
    /// Send the counters soon. A sniffer that hangs does not reply.
    Report,
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
}

/// The sniffer's counters since it started. They never decrease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames and datagrams that passed the kernel's filter and contained no magic packet.
    pub malformed: u64,
    /// Frames and datagrams with a magic packet that were longer than the part that is searched
    /// ([`crate::frame::SEARCHED`]): the rest may have contained more magic packets.
    pub truncated: u64,
    /// Frames that the kernel dropped because the packet sockets' buffers were full.
    pub dropped_raw: u64,
    /// Datagrams that the kernel dropped because the UDP sockets' buffers were full.
    pub dropped_udp: u64,
    /// Magic packets that were dropped because the announcer was too slow to receive them.
    pub dropped_channel: u64,
}

impl Counters {
    /// The number of frames and datagrams that the kernel dropped. The sum saturates, because a compromised sniffer can
    /// send any numbers.
    #[must_use]
    pub const fn dropped_by_kernel(&self) -> u64 {
        self.dropped_raw.saturating_add(self.dropped_udp)
    }

    /// Whether these counters can follow the earlier ones: no counter has decreased.
    #[must_use]
    pub const fn can_follow(&self, earlier: &Self) -> bool {
        self.malformed >= earlier.malformed
            && self.truncated >= earlier.truncated
            && self.dropped_raw >= earlier.dropped_raw
            && self.dropped_udp >= earlier.dropped_udp
            && self.dropped_channel >= earlier.dropped_channel
    }
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
