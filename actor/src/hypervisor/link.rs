//! The link to one hypervisor: connects, tells what there is and what changes, connects again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use wakevirt_service::bus::Backoff;

use super::libvirt::Libvirt;
use super::{Change, Domain, Hypervisor, Id, blocking};
use crate::Error;

/// How long the changes of a domain are gathered before it is read. A start is several of them, and to
/// read the domain at the same moment would hold up the call that starts it.
const GATHER: Duration = Duration::from_millis(10);

/// What the link tells.
pub enum Update {
    /// There is a connection to this URI, and these are all its domains.
    Up(Arc<str>, Arc<dyn Hypervisor>, Vec<Domain>),
    /// This domain is changing: what is known of it is not to be relied upon until it is told anew.
    Changing(Id),
    /// This domain is new, or changed.
    Domain(Domain),
    /// This domain is gone.
    Gone(Id),
    /// The connection to this URI is lost.
    Down(Arc<str>),
}

/// Keeps the link to the hypervisor at `uri`, until nobody takes its updates any more.
pub async fn keep(uri: Arc<str>, updates: mpsc::Sender<Update>) {
    let mut backoff = Backoff::new();
    let mut told = false;
    while !updates.is_closed() {
        match connect(&uri).await {
            Ok((hypervisor, changes, domains)) => {
                tracing::info!("connected to {uri}: {} domains", domains.len());
                backoff.reset();
                told = false;
                let reason = follow(&uri, hypervisor, domains, changes, &updates).await;
                tracing::warn!("the connection to {uri} is lost: {reason}; trying again");
            }
            // Said once, not for each attempt.
            Err(error) if !told => {
                tracing::warn!("no connection to {uri}: {error}; trying again until there is one");
                told = true;
            }
            Err(error) => tracing::debug!("no connection to {uri}: {error}"),
        }
        backoff.wait().await;
    }
}

type Connected = (Arc<dyn Hypervisor>, mpsc::UnboundedReceiver<Change>, Vec<Domain>);

async fn connect(uri: &Arc<str>) -> Result<Connected, Error> {
    let (sender, changes) = mpsc::unbounded_channel();
    let uri = Arc::clone(uri);
    let opening = tokio::task::spawn_blocking(move || Libvirt::open(uri, &sender));
    let libvirt = Arc::new(opening.await.map_err(Error::Interrupted)??);
    let hypervisor: Arc<dyn Hypervisor> = Arc::<Libvirt>::clone(&libvirt);
    // What changes while they are listed waits among the changes.
    let domains = blocking(&hypervisor, |hypervisor| hypervisor.domains()).await?;
    // Nothing waits for this.
    tokio::task::spawn_blocking(move || libvirt.tell_rights());
    Ok((hypervisor, changes, domains))
}

/// Tells what changes until the connection is lost; returns why it was.
async fn follow(
    uri: &Arc<str>,
    hypervisor: Arc<dyn Hypervisor>,
    domains: Vec<Domain>,
    mut changes: mpsc::UnboundedReceiver<Change>,
    updates: &mpsc::Sender<Update>,
) -> &'static str {
    // An update that nobody takes means that the actor ends.
    let _ = updates.send(Update::Up(Arc::clone(uri), Arc::clone(&hypervisor), domains)).await;
    // Domains that are to be read, each once however often it changes meanwhile, and when.
    let (mut changing, mut due) = (HashSet::new(), VecDeque::new());
    let reason = loop {
        let next = due.front().map_or_else(Instant::now, |(when, _)| *when);
        tokio::select! {
            biased;
            change = changes.recv() => match change {
                None => break "nothing more is told",
                Some(Change::Closed(reason)) => break reason,
                Some(Change::Domain(uuid)) if changing.insert(uuid) => {
                    due.push_back((Instant::now() + GATHER, uuid));
                    let _ = updates.send(Update::Changing(Id { connection: Arc::clone(uri), uuid })).await;
                }
                Some(Change::Domain(_)) => {}
            },
            () = tokio::time::sleep_until(next), if !due.is_empty() => {
                if let Some((_, uuid)) = due.pop_front() {
                    changing.remove(&uuid);
                    look(uri, &hypervisor, uuid, updates).await;
                }
            }
        }
    };
    let _ = updates.send(Update::Down(Arc::clone(uri))).await;
    // Closing may wait for the daemon.
    tokio::task::spawn_blocking(move || drop(hypervisor));
    reason
}

async fn look(
    uri: &Arc<str>,
    hypervisor: &Arc<dyn Hypervisor>,
    uuid: uuid::Uuid,
    updates: &mpsc::Sender<Update>,
) {
    let update = match blocking(hypervisor, move |hypervisor| hypervisor.domain(uuid)).await {
        Ok(Some(domain)) => Update::Domain(domain),
        Ok(None) => Update::Gone(Id { connection: Arc::clone(uri), uuid }),
        Err(error) => {
            tracing::warn!("domain {uuid} has changed and cannot be read; it is taken as it was: {error}");
            return;
        }
    };
    let _ = updates.send(update).await;
}
