//! Calls to the announcer.

use wakevirt_protocol::bus::Capture1Proxy;
use zbus::Connection;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;

/// A proxy for the announcer that has this unique name. A call to the well-known name could activate a service.
pub(super) async fn proxy(
    connection: &Connection,
    announcer: OwnedUniqueName,
) -> zbus::Result<Capture1Proxy<'static>> {
    Capture1Proxy::builder(connection)
        .destination(announcer)
        .cache_properties(CacheProperties::No)
        .build()
        .await
}
