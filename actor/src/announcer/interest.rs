//! Telling the announcer whose packets matter here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::Capture1Proxy;
use zbus::Connection;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;

use crate::announcer::call_error::reason;

/// The MAC addresses of all known domains.
pub type Macs = Arc<BTreeSet<MacAddr>>;

/// When an announcer that did not take the addresses is told them again: until then packets for the
/// domains here share the limits of strangers.
const RETRY: Duration = Duration::from_secs(5);

/// Tells the announcer the addresses whenever they change, and whenever there is a new announcer.
/// One that does not take them is told again after `RETRY`.
/// It ends when nobody has addresses to tell any more.
pub(super) async fn report(
    connection: &Connection,
    mut owner: watch::Receiver<Option<OwnedUniqueName>>,
    mut macs: watch::Receiver<Macs>,
) {
    let mut told = None;
    loop {
        let name = owner.borrow_and_update().clone();
        let interest = macs.borrow_and_update().clone();
        if let Some(name) = name {
            let failure = set(connection, name, &interest).await.err();
            let failure = failure.map(|error| reason("SetInterest", &error));
            // The same one is not told for each domain that comes or goes.
            if let Some(reason) = failure.as_ref().filter(|_| failure != told) {
                tracing::warn!(
                    "the announcer is not told the {} MAC addresses of the domains here, and may drop packets for \
                     them while there are many for others: {reason}",
                    interest.len()
                );
            }
            told = failure;
        }
        tokio::select! {
            Ok(()) = owner.changed() => {}
            Ok(()) = macs.changed() => {}
            () = tokio::time::sleep(RETRY), if told.is_some() => {}
            else => return,
        }
    }
}

async fn set(
    connection: &Connection,
    name: OwnedUniqueName,
    macs: &BTreeSet<MacAddr>,
) -> Result<(), wakevirt_protocol::bus::Error> {
    // To the very connection that is believed; a call to the well-known name could start a service.
    let announcer = Capture1Proxy::builder(connection)
        .destination(name)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let macs: Vec<Vec<u8>> = macs.iter().map(|mac| mac.octets().to_vec()).collect();
    announcer.set_interest(&macs).await
}
