//! The running domains, followed through libvirt's events by a thread with its own connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;
use wakevirt_libvirt::changes::{Change, Changes};
use wakevirt_libvirt::events::Listener;
use wakevirt_service::bus::Backoff;
use wakevirt_service::logs::kind;

use crate::libvirt::{Connection, LibvirtError, State};

/// How long changes are collected before the domains are listed: a start causes several changes.
const COLLECT_TIME: Duration = Duration::from_millis(100);

/// The names and UUIDs of the running domains.
pub(super) type Domains = BTreeMap<String, Uuid>;

/// Follows the running domains. The thread exits after this value is dropped, at the next change.
#[derive(Debug)]
pub(super) struct Follower(watch::Receiver<Option<Domains>>);

impl Follower {
    /// Starts the thread. Call this function within the runtime.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub(super) fn start(uri: &str) -> io::Result<Self> {
        let (sender, receiver) = watch::channel(None);
        let (uri, runtime) = (uri.to_owned(), Handle::current());
        std::thread::Builder::new().name("libvirt-follow".to_owned()).spawn(move || {
            let mut backoff = Backoff::new();
            let mut warned = false;
            while !sender.is_closed() {
                if let Err(error) = follow(&uri, &sender, &runtime, &mut warned) {
                    report(&uri, &error, &mut warned);
                } else {
                    backoff.reset();
                }
                runtime.block_on(backoff.wait());
            }
        })?;
        Ok(Self(receiver))
    }

    /// Waits for the next change. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The thread never ends while this value exists.
            std::future::pending::<()>().await;
        }
    }

    /// The running domains; `None` until they are known for the first time.
    pub(super) fn domains(&self) -> Option<Domains> {
        self.0.borrow().clone()
    }
}

/// Connects and sends the running domains after each change, until the connection is lost.
fn follow(
    uri: &str,
    sender: &watch::Sender<Option<Domains>>,
    runtime: &Handle,
    warned: &mut bool,
) -> Result<(), LibvirtError> {
    let changes = Arc::new(Changes::default());
    let listener: Arc<dyn Listener> = Arc::<Changes>::clone(&changes);
    let connection = Connection::follow(uri, &listener)?;
    loop {
        let domains = running(&connection)?;
        if std::mem::take(warned) {
            tracing::info!(MESSAGE_ID = kind::LIBVIRT_CONNECTED, "connected to {uri} again");
        }
        sender.send_if_modified(|old| {
            let new = Some(domains);
            let changed = *old != new;
            *old = new;
            changed
        });
        let change = runtime.block_on(async {
            tokio::select! {
                change = changes.next() => Some(change),
                () = sender.closed() => None,
            }
        });
        match change {
            None => return Ok(()),
            Some(Change::Closed(reason)) => {
                tracing::debug!("connection to {uri} lost: {reason}");
                return Ok(());
            }
            Some(Change::Domains(_) | Change::TooMany) => std::thread::sleep(COLLECT_TIME),
        }
    }
}

/// The domains that run, or change their state without being off.
fn running(connection: &Connection) -> Result<Domains, LibvirtError> {
    let runs = |state| matches!(state, State::Running | State::Changing);
    let active = connection.active()?.into_iter();
    Ok(active.filter(|it| it.state().is_ok_and(runs)).map(|it| (it.name, it.uuid)).collect())
}

fn report(uri: &str, error: &LibvirtError, warned: &mut bool) {
    if std::mem::replace(warned, true) {
        tracing::debug!("{uri} is unavailable: {error}");
    } else {
        tracing::warn!(MESSAGE_ID = kind::LIBVIRT_UNAVAILABLE, "{uri} is unavailable: {error}; retrying");
    }
}
