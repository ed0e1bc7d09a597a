//! Reads the properties of both services.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::client::{ActorStatus, CaptureStatus, Client, Error, Service};

/// The time limit for the reply of a service. By default, Prometheus waits 10 s for a scrape.
pub const TIME: Duration = Duration::from_secs(3);

/// The properties of both services, or why they cannot be read.
#[derive(Debug)]
pub struct Reading {
    /// The properties of capture.
    pub capture: Result<CaptureStatus, Error>,
    /// The properties of the actor.
    pub actor: Result<ActorStatus, Error>,
}

impl Reading {
    /// Reads both at the same time, so that one service that hangs does not delay the other.
    pub async fn take(client: &Client) -> Self {
        let capture = within(client, Service::Capture, client.capture_status());
        let actor = within(client, Service::Actor, client.actor_status());
        let (capture, actor) = tokio::join!(capture, actor);
        Self { capture, actor }
    }

    /// Returns the errors.
    pub fn errors(&self) -> impl Iterator<Item = &Error> {
        self.capture.as_ref().err().into_iter().chain(self.actor.as_ref().err())
    }
}

async fn within<T>(
    client: &Client,
    service: Service,
    status: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let address = || Box::new(client.address_of(service).clone());
    let no_reply = || Error::NoReply { service, address: address(), method: "GetAll".to_owned(), time: TIME };
    timeout(TIME, status).await.unwrap_or_else(|_| Err(no_reply()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn does_not_wait_for_a_bus_that_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let _bus = tokio::net::UnixListener::bind(&path).unwrap();
        let client = Client::new(format!("unix:path={}", path.display()).parse().unwrap());
        let start = std::time::Instant::now();
        let reading = Reading::take(&client).await;
        assert!(start.elapsed() < 2 * TIME, "{:?}", start.elapsed());
        assert_eq!(reading.errors().count(), 2);
    }
}
