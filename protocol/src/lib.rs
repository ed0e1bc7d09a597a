//! What crosses a boundary in wakevirt, and nothing that does I/O.
//!
//! A reviewer of the trust boundaries reads three modules first: [`frame`] decides what is a magic
//! packet, [`sniffer`] lists what may cross the socketpair, and [`bus`] what may cross D-Bus.
//! There is no runtime, no clock, no socket and no unsafe code here.

pub mod budget;
#[cfg(feature = "dbus")]
pub mod bus;
pub mod details;
pub mod frame;
pub mod link;
pub mod mac;
pub mod magic;
pub mod packet;
pub mod password;
pub mod sniffer;

pub use mac::MacAddr;
pub use magic::MagicPacket;
pub use packet::{CapturedPacket, Carrier, ParsedPacket, Stamp, UdpPath, VlanId};
pub use password::Password;
