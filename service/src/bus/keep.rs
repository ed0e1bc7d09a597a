//! Keeping a connection to a bus: a lost bus is no reason to end.

use std::time::{Duration, Instant};

use zbus::Connection;

use super::{Address, Backoff, Calls, Error};
use crate::logs::quoted;

/// A connection that lasted this long was a good one: the next attempt need not wait long.
const LASTING: Duration = Duration::from_secs(10);

/// Connects to the bus and does the job there; does both again whenever the connection is lost, and
/// calls `away` before. It ends when the job does. The connection takes calls as `calls` admits them, or none.
///
/// # Errors
/// If the bus refuses a name: another instance runs, or the bus policy is missing. Trying again would
/// not help.
pub async fn keep(
    address: &Address,
    calls: Option<&Calls>,
    mut job: impl AsyncFnMut(&Connection) -> Result<(), Error>,
    away: impl Fn(),
) -> Result<(), Error> {
    let mut backoff = Backoff::new();
    let mut told = false;
    loop {
        let since = Instant::now();
        let result = match address.connect(calls).await {
            Ok(connection) => {
                told = false;
                job(&connection).await
            }
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error @ (Error::Taken { .. } | Error::Refused { .. })) => return Err(error),
            Err(error) if told => tracing::debug!("cannot reach {}: {error}", address.words()),
            Err(error) => {
                told = true;
                tracing::warn!("{}", trouble(address, &error));
            }
        }
        away();
        if since.elapsed() >= LASTING {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

/// What is wrong with the bus, in a sentence.
fn trouble(address: &Address, error: &Error) -> String {
    let bus = address.words();
    match error {
        Error::Closed => format!("the connection to {bus} is lost; connecting again until it answers"),
        error => format!("cannot reach {bus}: {}; trying again until it answers", quoted(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_bus_and_what_is_wrong() {
        assert_eq!(
            trouble(&Address::System, &Error::Closed),
            "the connection to the system bus is lost; connecting again until it answers"
        );
        let at: Address = "unix:path=/run/user/7/bus".parse().unwrap();
        let error = Error::Bus(zbus::Error::Failure("no such file".to_owned()));
        let told = trouble(&at, &error);
        assert!(told.starts_with("cannot reach the bus at unix:path=/run/user/7/bus: \""), "{told}");
        assert!(told.contains("no such file") && told.ends_with("trying again until it answers"), "{told}");
    }
}
