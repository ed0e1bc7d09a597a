//! The latest metrics, shared by all requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use wakevirt_service::bus::Address;

use super::super::families::families;
use super::super::family::Family;
use crate::client::Client;
use crate::verbs::reading::Reading;

/// How long a reading is reused, so that many requests cause few calls.
const FRESH: Duration = Duration::from_secs(1);

/// Queries the services, at most once per [`FRESH`].
#[derive(Debug)]
pub struct Snapshots {
    bus: Address,
    latest: Mutex<Option<(Instant, Arc<Vec<Family>>)>>,
}

impl Snapshots {
    /// Creates snapshots of the services on this bus.
    pub fn new(bus: Address) -> Self {
        Self { bus, latest: Mutex::new(None) }
    }

    /// Returns the latest metrics. Requests that arrive during a reading wait for its end.
    pub async fn latest(&self) -> Arc<Vec<Family>> {
        let mut latest = self.latest.lock().await;
        if let Some((time, families)) = latest.as_ref()
            && time.elapsed() < FRESH
        {
            return Arc::clone(families);
        }
        // Each reading has its own connection, so that a restart of the bus has no effect.
        let client = Client::new(self.bus.clone());
        let families = Arc::new(families(&Reading::take(&client).await));
        *latest = Some((Instant::now(), Arc::clone(&families)));
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_the_services_at_most_once_per_second() {
        let snapshots = Snapshots::new("unix:path=/nonexistent".parse().unwrap());
        let (first, second) = tokio::join!(snapshots.latest(), snapshots.latest());
        assert!(Arc::ptr_eq(&first, &second));
        tokio::time::sleep(FRESH).await;
        assert!(!Arc::ptr_eq(&first, &snapshots.latest().await));
    }
}
