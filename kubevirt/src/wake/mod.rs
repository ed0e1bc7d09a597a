//! Wakes virtual machines.

mod attempt;
mod call;
mod rate;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{oneshot, watch};
use wakevirt_actor::hypervisor::{AttemptFuture, AttemptRequest, AttemptResult, Hypervisor};

use crate::client::Clients;
use crate::machines::Machines;

/// A connected cluster.
pub(crate) struct Cluster {
    /// The known virtual machines.
    pub machines: Machines,
    clients: Clients,
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
}

/// Attempts wakes in a cluster.
pub(crate) struct Waker(pub Arc<Cluster>);

impl Hypervisor for Waker {
    fn attempt(&self, request: AttemptRequest) -> AttemptFuture {
        let (sender, result) = oneshot::channel();
        let cluster = Arc::clone(&self.0);
        tokio::spawn(async move {
            let called = AtomicBool::new(request.called);
            let attempt = tokio::select! {
                attempt = attempt::attempt(&cluster, request, &called) => attempt,
                _reason = cluster.lost() => {
                    let called = called.load(Ordering::Relaxed);
                    (std::time::Duration::ZERO, AttemptResult::Lost { called })
                }
            };
            // The receiver is dropped when the service is about to exit.
            let _ = sender.send(attempt);
        });
        Box::pin(async move { result.await.ok() })
    }

    fn queued(&self) -> usize {
        rate::queued()
    }

    fn is_alive(&self) -> bool {
        self.0.lost.borrow().is_none()
    }
}
