//! The `mode` key.

use serde::Deserialize;
use wakevirt_protocol::sniffer::Request;

/// The value of the `mode` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModeKey {
    /// Packet sockets if capture has CAP_NET_RAW, and UDP sockets
    Auto,
    /// Packet sockets and UDP sockets; fails without CAP_NET_RAW
    Raw,
    /// UDP sockets only
    Udp,
}

impl From<ModeKey> for Request {
    fn from(mode: ModeKey) -> Self {
        match mode {
            ModeKey::Auto => Self::Auto,
            ModeKey::Raw => Self::Raw,
            ModeKey::Udp => Self::Udp,
        }
    }
}
