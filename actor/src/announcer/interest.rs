//! Reports the MAC addresses of the domains to the announcer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wakevirt_protocol::MacAddr;
use wakevirt_service::logs::kind;
use zbus::Connection;
use zbus::names::OwnedUniqueName;

use crate::announcer::call_error::describe;
use crate::announcer::proxy::proxy;

/// The MAC addresses of all known domains.
pub type Macs = Arc<BTreeSet<MacAddr>>;

/// The delay before a failed report is retried. Until a report succeeds, packets for the domains count towards the
/// limits for unknown addresses.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Reports the addresses whenever they change, and to each new announcer. Retries a failed report after
/// `RETRY_INTERVAL`. Returns when the engine has exited.
pub(super) async fn report(
    connection: &Connection,
    mut owner: watch::Receiver<Option<OwnedUniqueName>>,
    mut macs: watch::Receiver<Macs>,
) {
    let mut last_failure = None;
    loop {
        let name = owner.borrow_and_update().clone();
        let interest = macs.borrow_and_update().clone();
        if let Some(name) = name {
            let failure = set_interest(connection, name, &interest).await.err();
            let failure = failure.map(|error| describe("SetInterest", &error));
            // Each change to a domain causes another attempt: do not log the same failure for each attempt.
            if let Some(failure) = failure.as_ref().filter(|_| failure != last_failure) {
                tracing::warn!(
                    MESSAGE_ID = kind::INTEREST_FAILED,
                    "cannot report the MAC addresses of the domains to the announcer: {failure}; addresses: {}; the announcer \
                     may drop packets for these domains while it receives many packets for other addresses",
                    interest.len()
                );
            }
            last_failure = failure;
        }
        tokio::select! {
            Ok(()) = owner.changed() => {}
            Ok(()) = macs.changed() => {}
            () = tokio::time::sleep(RETRY_INTERVAL), if last_failure.is_some() => {}
            else => return,
        }
    }
}

async fn set_interest(
    connection: &Connection,
    name: OwnedUniqueName,
    macs: &BTreeSet<MacAddr>,
) -> Result<(), wakevirt_protocol::bus::Error> {
    // A new announcer defers short calls until the bus has reported this process's user. Until then, it refuses a long call
    // that would overtake them. This call is short, so its reply means that the user is known.
    connection.call_method(Some(&name), "/", Some("org.freedesktop.DBus.Peer"), "Ping", &()).await?;
    let announcer = proxy(connection, name).await?;
    let macs: Vec<&[u8]> = macs.iter().map(MacAddr::as_slice).collect();
    announcer.set_interest(&macs).await
}
