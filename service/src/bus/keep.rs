//! Keeping a connection to a bus: a lost bus is no reason to end.

use std::time::{Duration, Instant};

use zbus::Connection;

use super::{Address, Backoff, Error};
use crate::logs::quoted;

/// A connection that lasted this long was a good one: the next attempt need not wait long.
const LASTING: Duration = Duration::from_secs(10);

/// Connects to the bus and does the job there; does both again whenever the connection is lost, and
/// calls `away` before. It ends when the job does.
///
/// # Errors
/// If the bus refuses a name: another instance runs, or the bus policy is missing. Trying again would
/// not help.
pub async fn keep(
    address: &Address,
    job: impl AsyncFn(&Connection) -> Result<(), Error>,
    away: impl Fn(),
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
            Err(error @ (Error::Taken { .. } | Error::Refused { .. })) => return Err(error),
            Err(error) if told => tracing::debug!("cannot reach the bus {address}: {error}"),
            Err(error) => {
                told = true;
                let error = error.to_string();
                tracing::warn!("cannot reach the bus {address}, and goes on trying: {}", quoted(&error));
            }
        }
        away();
        if since.elapsed() >= LASTING {
            backoff.reset();
        }
        backoff.wait().await;
    }
}
