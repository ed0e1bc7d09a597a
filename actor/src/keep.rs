//! Keeping a connection to a bus: a lost bus is no reason to end.

use std::time::{Duration, Instant};

use wakevirt_service::bus::{self, Address, Backoff};
use wakevirt_service::lifecycle;
use wakevirt_service::logs::quoted;
use zbus::Connection;

use crate::Error;

/// A connection that lasted this long was a good one: the next attempt need not wait long.
const LASTING: Duration = Duration::from_secs(10);

/// Connects to the bus and does the job there; does both again whenever the connection is lost.
///
/// # Errors
/// If the bus refuses the name: another instance runs, or the bus policy is missing. Trying again
/// would not help.
pub async fn keep(
    address: &Address,
    job: impl AsyncFn(&Connection) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut backoff = Backoff::new();
    let mut told = false;
    loop {
        let since = Instant::now();
        let result = match address.builder().build().await {
            Ok(connection) => {
                told = false;
                job(&connection).await
            }
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(Error::Name(error @ (bus::Error::Taken { .. } | bus::Error::Refused { .. }))) => {
                return Err(error.into());
            }
            Err(error) if told => tracing::debug!("no connection to the bus ({address}): {error}"),
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(
                    "no connection to the bus ({address}): {}; trying again until there is one",
                    quoted(&error)
                );
                told = true;
                // Ready all the same: it follows the hypervisors, and finishes what was under way.
                lifecycle::ready("waiting for the bus");
            }
        }
        if since.elapsed() >= LASTING {
            backoff.reset();
        }
        backoff.wait().await;
    }
}
