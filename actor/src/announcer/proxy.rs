//! Calls to the announcer.

use wakevirt_protocol::bus::Capture1Proxy;
use zbus::Connection;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;

/// A proxy for the announcer with this unique name. The well-known name is not used: a call to it could activate a
/// service.
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
