//! A connection to libvirt, and what a domain is asked to do. Each thread opens its own connection.

mod guest;

use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use virt::sys;
use wakevirt_libvirt::events::{self, Listener, Subscription};
use wakevirt_libvirt::keepalive;
use wakevirt_service::logs::quoted;

use std::sync::Arc;

use uuid::Uuid;

pub(crate) use guest::{Guest, State};

/// A call to libvirt failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {}", quoted(message))]
pub(crate) struct LibvirtError {
    /// A verb and its object.
    action: &'static str,
    /// libvirt's message.
    message: String,
}

/// Converts the libvirt error of this action.
fn failed(action: &'static str) -> impl Fn(virt::error::Error) -> LibvirtError {
    move |error| LibvirtError { action, message: error.message().to_owned() }
}

/// A connection that a single thread uses. Keepalive is on, so that no call waits forever.
#[derive(Debug)]
pub(crate) struct Connection {
    // Dropped first: a registration keeps the connection open.
    _subscription: Option<Subscription>,
    connection: Connect,
}

impl Connection {
    /// Connects. This can block for as long as the daemon takes.
    pub(crate) fn open(uri: &str) -> Result<Self, LibvirtError> {
        events::start_loop().map_err(failed("start libvirt's event loop"))?;
        let connection = Connect::open(Some(uri)).map_err(failed("connect to libvirt"))?;
        if !keepalive::start(&connection) {
            tracing::debug!("{uri} does not support keepalive");
        }
        Ok(Self { _subscription: None, connection })
    }

    /// Connects, and reports changes to the listener from then on.
    pub(crate) fn follow(uri: &str, listener: &Arc<dyn Listener>) -> Result<Self, LibvirtError> {
        let Self { connection, .. } = Self::open(uri)?;
        let subscription =
            events::subscribe(&connection, listener).map_err(failed("subscribe to libvirt's events"))?;
        Ok(Self { _subscription: Some(subscription), connection })
    }

    /// All domains that are not shut off.
    pub(crate) fn active(&self) -> Result<Vec<Guest>, LibvirtError> {
        let listed = self.connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE);
        let listed = listed.map_err(failed("list the domains"))?;
        // A domain that has just stopped cannot be read.
        Ok(listed.into_iter().filter_map(|domain| Guest::new(domain).ok()).collect())
    }

    /// The domain with this UUID; `None` if there is none.
    pub(crate) fn guest(&self, uuid: Uuid) -> Result<Option<Guest>, LibvirtError> {
        match self.connection.lookup_domain_by_uuid(uuid) {
            Ok(domain) => Guest::new(domain).map(Some),
            Err(error) if error.code() == Enum::Known(ErrorNumber::NoDomain) => Ok(None),
            Err(error) => Err(failed("look up the domain")(error)),
        }
    }
}
