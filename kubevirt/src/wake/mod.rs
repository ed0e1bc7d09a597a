//! Wakes virtual machines.

mod attempt;
mod call;
mod cluster;
mod rate;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use wakevirt_actor::hypervisor::{AttemptFuture, AttemptRequest, AttemptResult, Hypervisor};

pub(crate) use cluster::Cluster;

/// Attempts wakes in a cluster.
pub(crate) struct Waker(pub Arc<Cluster>);

impl Hypervisor for Waker {
    fn attempt(&self, request: AttemptRequest) -> AttemptFuture {
        let (sender, result) = oneshot::channel();
        let cluster = Arc::clone(&self.0);
        tokio::spawn(async move {
            let called = AtomicBool::new(request.called.is_possible());
            let attempt = tokio::select! {
                attempt = attempt::attempt(&cluster, request, &called) => attempt,
                _reason = cluster.lost() => {
                    let called = called.load(Ordering::Relaxed);
                    (Duration::ZERO, AttemptResult::Lost { called })
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
        !self.0.is_lost()
    }
}
