//! Runs a service's work on a bus connection, and reconnects when the connection is lost.

use std::time::{Duration, Instant};

use zbus::Connection;

use super::{Address, Backoff, BusError, CallLimiter};
use crate::logs::{kind, quoted};

/// A connection that lasts at least this long resets the delay before the next attempt.
const STABLE: Duration = Duration::from_secs(10);

/// Connects to the bus and runs `work` on the connection. When the connection is lost, calls `on_disconnect` and starts
/// again. Returns when `work` returns. The connection receives the calls that `limiter` admits; without a limiter, it
/// receives no calls.
///
/// # Errors
/// If the bus does not assign a name, because another instance is running or the bus policy is missing. Another attempt
/// would not help.
pub async fn run_connected(
    address: &Address,
    limiter: Option<&CallLimiter>,
    mut work: impl AsyncFnMut(&Connection) -> Result<(), BusError>,
    on_disconnect: impl Fn(),
) -> Result<(), BusError> {
    let mut backoff = Backoff::new();
    let mut warned = false;
    loop {
        let start = Instant::now();
        let result = match address.connect(limiter).await {
            Ok(connection) => {
                warned = false;
                work(&connection).await
            }
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error @ (BusError::NameTaken { .. } | BusError::NameRefused { .. })) => return Err(error),
            Err(error) if warned => {
                tracing::debug!("connection to {} failed: {error}", address.description());
            }
            Err(error) => {
                warned = true;
                tracing::warn!(MESSAGE_ID = kind::BUS_UNAVAILABLE, "{}", warning(address, &error));
            }
        }
        on_disconnect();
        if start.elapsed() >= STABLE {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

fn warning(address: &Address, error: &BusError) -> String {
    let bus = address.description();
    match error {
        BusError::Closed => format!("connection to {bus} lost; reconnecting"),
        error => format!("connection to {bus} failed: {}; retrying", quoted(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_bus_and_the_error() {
        assert_eq!(
            warning(&Address::System, &BusError::Closed),
            "connection to the system bus lost; reconnecting"
        );
        let at: Address = "unix:path=/run/user/7/bus".parse().unwrap();
        let error = BusError::Bus(zbus::Error::Failure("no such file".to_owned()));
        let text = warning(&at, &error);
        assert!(text.starts_with("connection to the bus at unix:path=/run/user/7/bus failed: \""), "{text}");
        assert!(text.contains("no such file") && text.ends_with("; retrying"), "{text}");
    }
}
