//! The permissions of a connection to libvirt.

use std::fmt;

use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use wakevirt_service::logs::quoted;

/// What libvirt allows the actor to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Permissions {
    /// Everything.
    Full,
    /// What libvirt's access driver grants: <https://libvirt.org/acl.html>.
    Restricted,
    /// The check failed with this message.
    Unknown(String),
}

impl Permissions {
    /// Makes a call that requires a permission that the actor never needs: virConnectGetDomainCapabilities, which
    /// requires `connect.write`. The call does not read a domain or change anything, and its result is not secret. It
    /// can block.
    pub(super) fn of(connection: &Connect) -> Self {
        match connection.domain_capabilities(None, None, None, None, 0) {
            Ok(_) => Self::Full,
            Err(error) if error.code() == Enum::Known(ErrorNumber::AccessDenied) => Self::Restricted,
            Err(error) => Self::Unknown(error.message().to_owned()),
        }
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("not restricted; the actor is allowed to do everything there"),
            Self::Restricted => formatter.write_str("restricted by libvirt's access driver"),
            Self::Unknown(reason) => write!(formatter, "unknown; the check failed: {}", quoted(reason)),
        }
    }
}
