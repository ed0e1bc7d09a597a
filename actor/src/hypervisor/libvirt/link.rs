//! The link to one hypervisor: connects, tells what there is and what changes, connects again.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use virt::connect::Connect;
use wakevirt_service::bus::Backoff;

use super::changes::{Change, Changes, MOST};
use super::connection::{Libvirt, keep_alive};
use super::monitor::{Monitor, Opened};
use super::pool::{Connection, Opener, Pool, SEATS, Shared};
use crate::Error;
use crate::hypervisor::{Hypervisor, Update, Work};
use crate::model::{Domain, Id};

/// How long the changes of a domain are gathered before it is read. A start is several of them, and to
/// read the domain at the same moment would hold up the call that starts it.
const GATHER: Duration = Duration::from_millis(10);
/// How long a hypervisor may take to answer before the log says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// The link to one hypervisor.
pub struct Link {
    uri: Arc<str>,
    monitor: Monitor,
    pool: Pool,
    updates: mpsc::Sender<Update>,
    /// Whether it was told that there is no connection.
    told: bool,
}

/// A link that is up.
struct Up {
    changes: Arc<Changes>,
    hypervisor: Arc<dyn Hypervisor>,
    domains: Vec<Domain>,
}

impl Link {
    /// Starts all threads that the link needs. There are no connections yet.
    ///
    /// # Errors
    /// If the kernel allows no further thread.
    pub fn start(uri: Arc<str>, updates: mpsc::Sender<Update>) -> Result<Self, Error> {
        let monitor = Monitor::start(&uri).map_err(Error::Start)?;
        let pool = Pool::start(&uri).map_err(Error::Start)?;
        Ok(Self { uri, monitor, pool, updates, told: false })
    }

    /// Keeps the link up, until nobody takes its updates any more.
    pub async fn keep(mut self) {
        let mut backoff = Backoff::new();
        while !self.updates.is_closed() {
            match self.connect().await {
                Ok(up) => {
                    let domains = up.domains.len();
                    let s = if domains == 1 { "" } else { "s" };
                    tracing::info!("connected to {}: {domains} domain{s}", self.uri);
                    backoff.reset();
                    self.told = false;
                    let reason = self.follow(up).await;
                    tracing::warn!("the connection to {} is lost: {reason}; trying again", self.uri);
                    self.tell(Update::Down(Arc::clone(&self.uri))).await;
                }
                Err(error) => self.tell_away(&error.to_string()).await,
            }
            self.pool.close();
            self.monitor.close().await;
            backoff.wait().await;
        }
    }

    async fn connect(&mut self) -> Result<Up, Error> {
        let Opened { changes, shareable } = self.open().await?;
        let generation = self.pool.open(ahead(&self.uri), opener(&self.uri, shareable));
        // What changes while they are listed waits among the changes.
        let domains = self.monitor.domains().await?;
        tokio::select! {
            () = self.pool.ready() => {}
            () = changes.lost() => return Err(Error::NotConnected),
            () = tokio::time::sleep(PATIENCE) => return Err(Error::NoSession(self.pool.error())),
        }
        let pool = self.pool.shared();
        let hypervisor = Arc::new(Sessions { pool, generation, changes: Arc::clone(&changes) });
        Ok(Up { changes, hypervisor, domains })
    }

    /// Opens the connection that tells what changes. A daemon may accept one and not answer.
    async fn open(&mut self) -> Result<Opened, Error> {
        let (uri, updates) = (Arc::clone(&self.uri), self.updates.clone());
        let opening = self.monitor.open();
        tokio::pin!(opening);
        if let Ok(opened) = timeout(PATIENCE, &mut opening).await {
            return opened;
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!("no connection to {uri} yet: it does not answer; waiting until it does");
            let _ = updates.send(Update::Down(uri)).await;
        }
        opening.await
    }

    /// Said once, not for each attempt.
    async fn tell_away(&mut self, error: &str) {
        if std::mem::replace(&mut self.told, true) {
            return tracing::debug!("no connection to {}: {error}", self.uri);
        }
        tracing::warn!("no connection to {}: {error}; trying again until there is one", self.uri);
        self.tell(Update::Down(Arc::clone(&self.uri))).await;
    }

    /// Tells what changes until the connection is lost; returns why it was.
    async fn follow(&mut self, up: Up) -> &'static str {
        let Up { changes, hypervisor, domains } = up;
        self.tell(Update::Up(Arc::clone(&self.uri), Arc::clone(&hypervisor), domains)).await;
        // Nobody waits for this.
        self.monitor.tell_rights();
        let Self { uri, monitor, pool, updates, .. } = self;
        let mut follower = Follower { uri, monitor, updates, changing: HashSet::new(), due: VecDeque::new() };
        tokio::select! {
            reason = follower.follow(&changes, &hypervisor) => reason,
            () = pool.lost() => "no further one can be opened for wakes",
            () = pool.look_after() => "nothing looks after its calls",
        }
    }

    async fn tell(&self, update: Update) {
        // An update that nobody takes means that the actor ends.
        let _ = self.updates.send(update).await;
    }
}

/// Reads again what changes.
struct Follower<'link> {
    uri: &'link Arc<str>,
    monitor: &'link mut Monitor,
    updates: &'link mpsc::Sender<Update>,
    /// Domains that are to be read, each once however often it changes meanwhile, and when.
    changing: HashSet<Uuid>,
    due: VecDeque<(Instant, Uuid)>,
}

impl Follower<'_> {
    async fn follow(&mut self, changes: &Changes, hypervisor: &Arc<dyn Hypervisor>) -> &'static str {
        loop {
            let next = self.due.front().map_or_else(Instant::now, |(when, _)| *when);
            tokio::select! {
                biased;
                change = changes.next() => match change {
                    Change::Closed(reason) => return reason,
                    Change::Domains(domains) if domains.len() + self.due.len() <= MOST => self.note(domains).await,
                    Change::Domains(_) | Change::TooMany => {
                        if let Err(error) = self.list(hypervisor).await {
                            tracing::warn!("many domains of {} have changed and {error}", self.uri);
                            return "its domains cannot be listed";
                        }
                    }
                },
                () = tokio::time::sleep_until(next), if !self.due.is_empty() => {
                    if let Some((_, uuid)) = self.due.pop_front() {
                        self.changing.remove(&uuid);
                        self.look(uuid).await;
                    }
                }
            }
        }
    }

    async fn note(&mut self, domains: HashSet<Uuid>) {
        for uuid in domains {
            if self.changing.insert(uuid) {
                self.due.push_back((Instant::now() + GATHER, uuid));
                let _ = self.updates.send(Update::Changing(self.id(uuid))).await;
            }
        }
    }

    /// Lists all domains, in place of reading each that has changed.
    async fn list(&mut self, hypervisor: &Arc<dyn Hypervisor>) -> Result<(), Error> {
        self.changing.clear();
        self.due.clear();
        let domains = self.monitor.domains().await?;
        let _ = self.updates.send(Update::Up(Arc::clone(self.uri), Arc::clone(hypervisor), domains)).await;
        Ok(())
    }

    async fn look(&mut self, uuid: Uuid) {
        let update = match self.monitor.domain(uuid).await {
            Ok(Some(domain)) => Update::Domain(domain),
            Ok(None) => Update::Gone(self.id(uuid)),
            Err(error) => {
                tracing::warn!(
                    "domain {uuid} has changed and cannot be read; it is taken as it was: {error}"
                );
                return;
            }
        };
        let _ = self.updates.send(update).await;
    }

    fn id(&self, uuid: Uuid) -> Id {
        Id { connection: Arc::clone(self.uri), uuid }
    }
}

/// What wakes use of a link that is up.
struct Sessions {
    pool: Arc<Shared>,
    generation: u64,
    changes: Arc<Changes>,
}

impl Hypervisor for Sessions {
    fn run(&self, work: Work) {
        self.pool.run(self.generation, work);
    }

    fn waiting(&self) -> usize {
        self.pool.waiting()
    }

    fn is_alive(&self) -> bool {
        !self.changes.is_closed()
    }
}

/// Opens connections of libvirt for wakes.
fn opener(uri: &Arc<str>, shareable: Option<Connect>) -> Opener {
    let uri = Arc::clone(uri);
    Arc::new(move |seat, listener| {
        if let Some(connection) = &shareable {
            let session = Box::new(Libvirt::sharing(&uri, connection.clone()));
            return Ok(Connection { session, guard: Arc::new(|| ()) });
        }
        let session = Libvirt::open_to_wake(&uri, listener)?;
        // Wakes prefer this seat. This call is not guarded: where the daemon is on another host, it might never end.
        if seat == 0 && is_local(&uri) {
            session.learn_handles()?;
        }
        let connection = session.connection();
        let guard = Arc::new(move || {
            keep_alive(&connection);
        });
        Ok(Connection { session: Box::new(session), guard })
    })
}

/// How many connections for wakes are opened ahead. Each one to another host is a process of ssh here and a login
/// there: one, and more when wakes come at the same time.
fn ahead(uri: &str) -> usize {
    if is_local(uri) { SEATS } else { 1 }
}

/// Whether the daemon at this URI runs on this host, and is reached without a login.
fn is_local(uri: &str) -> bool {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let transport = scheme.split_once('+').map(|(_, transport)| transport);
    matches!(transport, None | Some("unix")) && rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_one_ahead_where_each_is_a_login() {
        for (uri, connections) in [
            ("qemu:///system", SEATS),
            ("qemu:///session?socket=/run/x", SEATS),
            ("test+unix:///default?socket=/run/libvirt/libvirt-sock", SEATS),
            ("qemu+ssh://user@host/system", 1),
            ("qemu+ssh:///system", 1),
            ("qemu://host/system", 1),
            ("qemu+tls://host/system", 1),
            ("no uri", 1),
        ] {
            assert_eq!(ahead(uri), connections, "{uri}");
        }
    }
}
