//! wakevirt's capture service: two programs that hear magic packets and announce them.
//!
//! [`sniffer`] reads packets and can do nothing else; [`announcer`] speaks to the bus and never
//! sees a packet's bytes.

pub mod announcer;
pub mod sniffer;
