//! Which regime of rights a connection to libvirt is under.

use std::fmt;

use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use wakevirt_service::logs::quoted;

/// What libvirt lets the actor do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Regime {
    /// Everything.
    Full,
    /// What libvirt's access driver grants: <https://libvirt.org/acl.html>.
    Restricted,
    /// It cannot be told, because of this.
    Unknown(String),
}

impl Regime {
    /// Asks libvirt for something that takes a permission which the actor never needs: what the host can
    /// emulate, by virConnectGetDomainCapabilities, which takes `connect.write`. The call looks at no
    /// domain, changes nothing, and what it returns is no secret. It may block.
    pub(super) fn of(connection: &Connect) -> Self {
        match connection.domain_capabilities(None, None, None, None, 0) {
            Ok(_) => Self::Full,
            Err(error) if error.code() == Enum::Known(ErrorNumber::AccessDenied) => Self::Restricted,
            Err(error) => Self::Unknown(error.message().to_owned()),
        }
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("not restricted, the actor may do everything there"),
            Self::Restricted => formatter.write_str("restricted by libvirt's access driver"),
            Self::Unknown(reason) => write!(formatter, "unknown, libvirt does not tell: {}", quoted(reason)),
        }
    }
}
