//! The command line.

use wakevirt_service::bus::Address;
use wakevirt_service::options::Common;

/// Hears announced magic packets and starts the virtual machines that may be woken
#[derive(Debug, Clone, clap::Parser)]
#[command(version)]
pub struct Options {
    /// The options that both services have.
    #[command(flatten)]
    pub common: Common,

    /// Hypervisor to connect to, instead of the configured ones; may be given more than once
    #[arg(long, value_name = "URI")]
    pub connect: Vec<String>,

    /// Message bus to hear the announcer on
    #[arg(long, value_name = "system|session|ADDRESS", default_value = "system")]
    pub capture_bus: Address,
}
