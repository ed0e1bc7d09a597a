//! The command line of `wakevirt-capture`.

use std::net::SocketAddr;

use wakevirt_service::options::Common;

use crate::config::ModeKey;
use crate::config::pattern::Pattern;

/// Hear magic packets and announce them on D-Bus
///
/// Keys of capture.toml that are given here too take the place of those in the files.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "wakevirt-capture", version)]
pub struct Options {
    /// What every service has.
    #[command(flatten)]
    pub common: Common,

    /// How to hear: auto, raw (packet sockets) or udp
    #[arg(long, value_name = "MODE", value_enum)]
    pub mode: Option<ModeKey>,

    /// Hear on interfaces of this name or glob; "!GLOB" excludes; may be repeated
    #[arg(long = "interface", value_name = "[!]GLOB")]
    pub interfaces: Vec<Pattern>,

    /// Listen on this UDP address, unless sockets are handed over; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
}
