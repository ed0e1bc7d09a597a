//! A connected cluster, which all wakes share.

use tokio::sync::watch;

use crate::client::Clients;
use crate::machines::Machines;

/// A connected cluster.
pub(crate) struct Cluster {
    /// The known virtual machines.
    pub machines: Machines,
    /// The clients for its API server.
    pub clients: Clients,
    /// The reason why the connection was lost.
    lost: watch::Sender<Option<String>>,
}

impl Cluster {
    pub fn new(clients: Clients, machines: Machines) -> Self {
        Self { machines, clients, lost: watch::Sender::new(None) }
    }

    /// Waits until the connection is lost, and returns the reason.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        // The sender is a field of this value.
        let reason = lost.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    /// Ends the attempts: the connection is lost.
    pub fn lose(&self, reason: &str) {
        self.lost.send_if_modified(|lost| {
            let is_first = lost.is_none();
            lost.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }

    /// Whether the connection is lost.
    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }
}
