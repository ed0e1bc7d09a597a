//! The connection that lists a hypervisor's domains, reads them and tells what changes, and its thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::oneshot;
use uuid::Uuid;
use virt::connect::Connect;

use super::changes::Changes;
use super::connection::Libvirt;
use super::events::Listener;
use crate::Error;
use crate::model::Domain;

/// The connection and its thread, which alone makes calls on it. The thread lives as long as this does.
#[derive(Debug)]
pub(super) struct Monitor {
    uri: Arc<str>,
    jobs: SyncSender<Job>,
}

type Job = Box<dyn FnOnce(&mut Option<Libvirt>) + Send>;

/// What a new connection tells first.
pub(super) struct Opened {
    /// What changes from then on.
    pub changes: Arc<Changes>,
    /// The connection itself, where it leads to a driver within this process, which all may share.
    pub shareable: Option<Connect>,
}

impl Monitor {
    /// Starts the thread. There is no connection yet.
    ///
    /// # Errors
    /// If the kernel allows no further thread.
    pub(super) fn start(uri: &Arc<str>) -> io::Result<Self> {
        // A job that nobody waits for, and one more.
        let (jobs, jobs_out) = sync_channel(2);
        std::thread::Builder::new().name("libvirt-monitor".to_owned()).spawn(move || serve(&jobs_out))?;
        Ok(Self { uri: Arc::clone(uri), jobs })
    }

    /// Opens the connection, in place of one that was lost. It takes as long as the daemon takes.
    ///
    /// # Errors
    /// If there is no connection.
    pub(super) async fn open(&mut self) -> Result<Opened, Error> {
        let uri = Arc::clone(&self.uri);
        self.run(move |slot| {
            *slot = None;
            let changes = Arc::new(Changes::default());
            let listener: Arc<dyn Listener> = Arc::<Changes>::clone(&changes);
            let connection = slot.insert(Libvirt::open_to_follow(&uri, &listener)?);
            Ok(Opened { changes, shareable: connection.shareable() })
        })
        .await
    }

    /// All domains. One that cannot be read is logged and left out.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(super) async fn domains(&mut self) -> Result<Vec<Domain>, Error> {
        self.run(|slot| slot.as_ref().ok_or(Error::NotConnected)?.domains()).await
    }

    /// One domain; `None` if there is none any more.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) async fn domain(&mut self, uuid: Uuid) -> Result<Option<Domain>, Error> {
        self.run(move |slot| slot.as_ref().ok_or(Error::NotConnected)?.domain(uuid)).await
    }

    /// Logs what libvirt lets the actor do, without waiting for that.
    pub(super) fn tell_rights(&mut self) {
        let job: Job = Box::new(|slot| slot.iter().for_each(Libvirt::tell_rights));
        // The thread has nothing else to do yet.
        let _ = self.jobs.try_send(job);
    }

    /// Closes the connection. Nobody waits for that: a daemon that hangs is given up by its pings.
    pub(super) async fn close(&mut self) {
        let closed = self.run(|slot| {
            drop(slot.take());
            Ok(())
        });
        let _ = closed.await;
    }

    async fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Option<Libvirt>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |slot| drop(tell.send(job(slot))));
        self.jobs.try_send(job).map_err(|_| Error::Interrupted)?;
        told.await.map_err(|_| Error::Interrupted)?
    }
}

fn serve(jobs: &Receiver<Job>) {
    let mut connection = None;
    while let Ok(job) = jobs.recv() {
        job(&mut connection);
    }
}
