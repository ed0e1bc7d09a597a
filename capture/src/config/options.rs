//! The command line of `wakevirt-capture`.

use std::net::SocketAddr;

use wakevirt_service::options::Common;

use crate::config::interfaces::InterfaceEntry;
use crate::config::mode::ModeKey;

/// Receive magic packets and announce them on D-Bus
///
/// Options override the keys of capture.toml.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "wakevirt-capture", version)]
pub struct Options {
    /// The options that both services have.
    #[command(flatten)]
    pub common: Common,

    /// Capture mode: auto, raw (packet sockets) or udp
    #[arg(long, value_name = "MODE", value_enum)]
    pub mode: Option<ModeKey>,

    /// Capture on interfaces that match this name or glob; "!GLOB" excludes; may be repeated
    #[arg(long = "interface", value_name = "[!]GLOB")]
    pub interfaces: Vec<InterfaceEntry>,

    /// Listen on this UDP address, unless systemd passes sockets; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
}
