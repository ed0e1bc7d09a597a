//! The connection that lists and reads a hypervisor's domains and receives their events, and the thread of this
//! connection.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::oneshot;
use uuid::Uuid;
use virt::connect::Connect;
use wakevirt_libvirt::changes::Changes;
use wakevirt_libvirt::events::Listener;

use crate::connection::Connection;
use wakevirt_actor::hypervisor::HypervisorError;
use wakevirt_actor::model::Domain;

/// The connection and its thread: no other thread makes calls on the connection. The thread exits when this value is
/// dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    uri: Arc<str>,
    jobs: SyncSender<Job>,
}

type Job = Box<dyn FnOnce(&mut Option<Connection>) + Send>;

/// A new connection.
pub(super) struct Opened {
    /// The changes since the connection was opened.
    pub changes: Arc<Changes>,
    /// The connection itself, if its driver runs inside this process, so that all threads can share it.
    pub shareable: Option<Connect>,
}

impl Monitor {
    /// Starts the thread. There is no connection yet.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub(super) fn start(uri: &Arc<str>) -> io::Result<Self> {
        // Room for one job that no caller awaits, and for one more.
        let (jobs, receiver) = sync_channel(2);
        std::thread::Builder::new().name("libvirt-monitor".to_owned()).spawn(move || run_jobs(&receiver))?;
        Ok(Self { uri: Arc::clone(uri), jobs })
    }

    /// Opens the connection, and closes the previous one. This takes as long as the daemon takes.
    ///
    /// # Errors
    /// If the connection cannot be opened.
    pub(super) async fn open(&mut self) -> Result<Opened, HypervisorError> {
        let uri = Arc::clone(&self.uri);
        self.run(move |slot| {
            *slot = None;
            let changes = Arc::new(Changes::default());
            let listener: Arc<dyn Listener> = Arc::<Changes>::clone(&changes);
            let connection = slot.insert(Connection::open_to_follow(&uri, &listener)?);
            Ok(Opened { changes, shareable: connection.shareable() })
        })
        .await
    }

    /// All domains. A domain that cannot be read is logged and omitted.
    ///
    /// # Errors
    /// If the domains cannot be listed.
    pub(super) async fn domains(&mut self) -> Result<Vec<Domain>, HypervisorError> {
        self.run(|slot| slot.as_ref().ok_or(HypervisorError::NotConnected)?.domains()).await
    }

    /// One domain; `None` if it no longer exists.
    ///
    /// # Errors
    /// If the domain cannot be read.
    pub(super) async fn domain(&mut self, uuid: Uuid) -> Result<Option<Domain>, HypervisorError> {
        self.run(move |slot| slot.as_ref().ok_or(HypervisorError::NotConnected)?.domain(uuid)).await
    }

    /// Logs what libvirt allows the actor to do, without waiting for it.
    pub(super) fn log_permissions(&mut self) {
        let job: Job = Box::new(|slot| slot.iter().for_each(Connection::log_permissions));
        // The queue is empty at this point.
        let _ = self.jobs.try_send(job);
    }

    /// Closes the connection. If the daemon hangs, keepalive ends the wait.
    pub(super) async fn close(&mut self) {
        let closed = self.run(|slot| {
            drop(slot.take());
            Ok(())
        });
        let _ = closed.await;
    }

    async fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Option<Connection>) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let (sender, result) = oneshot::channel();
        let job: Job = Box::new(move |slot| drop(sender.send(job(slot))));
        self.jobs.try_send(job).map_err(|_| HypervisorError::Interrupted)?;
        result.await.map_err(|_| HypervisorError::Interrupted)?
    }
}

fn run_jobs(jobs: &Receiver<Job>) {
    let mut connection = None;
    while let Ok(job) = jobs.recv() {
        job(&mut connection);
    }
}
