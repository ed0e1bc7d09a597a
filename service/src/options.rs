//! The options that both services have.

use std::path::PathBuf;

use crate::bus::Address;
use crate::logs::LogTo;

/// The options that both services have.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Read this configuration file alone, instead of those in /etc/wakevirt and /usr/lib/wakevirt
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Message bus to serve on: system, session, or a D-Bus address
    #[arg(long, value_name = "system|session|ADDRESS", default_value = "system")]
    pub bus: Address,

    /// Read the configuration, report what is wrong with it, and exit
    #[arg(long)]
    pub check: bool,

    /// Where to log
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    pub log_to: LogTo,
}
