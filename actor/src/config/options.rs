//! The command line.

use std::path::PathBuf;

use wakevirt_service::bus::Address;
use wakevirt_service::options::Common;

/// Receive announced magic packets and wake virtual machines
#[derive(Debug, Clone, clap::Parser)]
#[command(version)]
pub struct Options {
    /// The options that both services have.
    #[command(flatten)]
    pub common: Common,

    /// Read actor.toml and actor.d/*.toml in this directory, not the files in /etc/wakevirt and /usr/lib/wakevirt
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "config")]
    pub config_dir: Option<PathBuf>,

    /// Connect to this hypervisor instead of the configured ones; can be repeated
    #[arg(long, value_name = "URI")]
    pub connect: Vec<String>,

    /// Receive packets on this message bus
    #[arg(long, value_name = "system|session|ADDRESS", default_value = "system")]
    pub capture_bus: Address,
}
