//! The command line.

use wakevirt_service::options::Common;

/// Prepare the host for virtual machines
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "wakevirt-host", version)]
pub struct Options {
    /// The options that all services have.
    #[command(flatten)]
    pub common: Common,
}
