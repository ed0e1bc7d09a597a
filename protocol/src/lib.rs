//! Types and messages that cross a process boundary, the packet parser, and packet budgets.
//!
//! To review the trust boundaries, begin with three modules: [`frame`] recognises magic packets, [`sniffer`] defines
//! the messages on the socketpair, and [`bus`] defines those on D-Bus. This crate contains no runtime, clock, socket or
//! unsafe code.

pub mod budget;
#[cfg(feature = "dbus")]
pub mod bus;
pub mod details;
#[cfg(feature = "dbus")]
pub mod dict;
#[cfg(feature = "dbus")]
pub mod explain;
pub mod frame;
pub mod host;
pub mod link;
pub mod mac;
pub mod magic;
pub mod packet;
pub mod password;
pub mod sniffer;

pub use details::Transport;
pub use mac::MacAddr;
pub use magic::MagicPacket;
pub use packet::{CapturedPacket, Carrier, Origin, ParsedPacket, Stamp, UdpPath, VlanId};
pub use password::Password;
