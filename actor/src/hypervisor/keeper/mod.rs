//! Maintains one connection to a hypervisor: connects, reports changes, and reconnects.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;
use uuid::Uuid;
use wakevirt_service::bus::Backoff;
use wakevirt_service::logs::kind;

use super::{Hypervisor, HypervisorError, Update};
use crate::config::Scope;
use crate::model::{Decision, Domain, Id, Program};

/// How long connecting to a hypervisor can take before a warning is logged. The attempt continues.
const CONNECT_WARNING: Duration = Duration::from_secs(10);

/// Connects to one kind of hypervisor, which the program selects. Each value is for one URI. The keeper calls the
/// methods of a driver in the order connect, follow, close, and then starts over. If connecting fails, it skips follow.
pub trait Driver: Sized + Send + 'static {
    /// The program that contains the driver.
    const PROGRAM: Program;

    /// Prepares the process. Called once, before the process has any state to lose.
    ///
    /// # Errors
    /// If the process cannot be prepared.
    fn prepare(uris: &[String]) -> io::Result<()>;

    /// Creates the driver for this URI, without connecting. In a cluster, it reports the virtual machines in this scope,
    /// and can report the decisions in the cluster.
    ///
    /// # Errors
    /// If a system resource is unavailable.
    fn start(uri: &Arc<str>, scope: &Scope, decisions: &Decisions) -> io::Result<Self>;

    /// The shell commands for this URI.
    fn commands(uri: &str) -> Commands;

    /// Connects and lists the domains. This takes as long as the hypervisor takes.
    ///
    /// # Errors
    /// If the connection fails, or the domains cannot be listed.
    fn connect(&mut self) -> impl Future<Output = Result<Connected, HypervisorError>> + Send;

    /// Reports the changes since [`Driver::connect`] until the connection is lost; returns the reason for the loss.
    fn follow(&mut self, updates: &Updates) -> impl Future<Output = String> + Send;

    /// Closes the connection, even if it is only partially open.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// All decisions of the actor.
pub type Decisions = broadcast::Sender<Arc<Decision>>;

/// A configured connection.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The URI, which identifies the connection.
    pub uri: Arc<str>,
    /// The shell commands for this URI.
    pub commands: Commands,
}

impl Endpoint {
    /// The endpoint with this URI and the commands of a driver.
    #[must_use]
    pub fn new<D: Driver>(uri: &str) -> Self {
        Self { uri: uri.into(), commands: D::commands(uri) }
    }
}

/// Shell commands that messages recommend to the user.
#[derive(Debug, Clone)]
pub struct Commands {
    /// Lists all domains.
    pub list_domains: String,
    /// Lists the MAC addresses of the domain NAME.
    pub list_addresses: String,
}

/// A new connection.
pub struct Connected {
    /// Attempts wakes while the connection is open.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// All domains.
    pub domains: Vec<Domain>,
}

/// Reports the changes of one connection to the engine.
pub struct Updates {
    uri: Arc<str>,
    hypervisor: Arc<dyn Hypervisor>,
    sender: mpsc::Sender<Update>,
}

impl Updates {
    /// Reports all domains, replacing those that were reported before.
    pub async fn all(&self, domains: Vec<Domain>) {
        let hypervisor = Arc::clone(&self.hypervisor);
        self.send(Update::Up(Arc::clone(&self.uri), hypervisor, domains)).await;
    }

    /// Reports that this domain is changing. A report of the domain follows.
    pub async fn changing(&self, uuid: Uuid) {
        self.send(Update::Changing(self.id(uuid))).await;
    }

    /// Reports that this domain has started or was resumed.
    pub async fn running(&self, uuid: Uuid) {
        self.send(Update::Running(self.id(uuid))).await;
    }

    /// Reports a domain that is new or has changed.
    pub async fn domain(&self, domain: Domain) {
        self.send(Update::Domain(domain)).await;
    }

    /// Reports that this domain no longer exists.
    pub async fn gone(&self, uuid: Uuid) {
        self.send(Update::Gone(self.id(uuid))).await;
    }

    fn id(&self, uuid: Uuid) -> Id {
        Id { connection: Arc::clone(&self.uri), uuid }
    }

    async fn send(&self, update: Update) {
        // The receiver is dropped when the service is about to exit.
        let _ = self.sender.send(update).await;
    }
}

/// Maintains one connection.
pub struct Keeper<D> {
    uri: Arc<str>,
    driver: D,
    sender: mpsc::Sender<Update>,
    /// Whether the missing connection has been logged and reported to the engine.
    reported: bool,
}

impl<D: Driver> Keeper<D> {
    /// A keeper that has not connected yet.
    ///
    /// # Errors
    /// If the driver cannot be started.
    pub fn start(
        uri: Arc<str>,
        scope: &Scope,
        decisions: &Decisions,
        sender: mpsc::Sender<Update>,
    ) -> io::Result<Self> {
        Ok(Self { driver: D::start(&uri, scope, decisions)?, uri, sender, reported: false })
    }

    /// Connects, and reconnects whenever the connection is lost, until the receiver of the updates is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        while !self.sender.is_closed() {
            match self.connect().await {
                Ok(connected) => {
                    backoff.reset();
                    self.follow(connected).await;
                }
                Err(error) => self.report_failure(&error).await,
            }
            self.driver.close().await;
            backoff.wait().await;
        }
    }

    /// Connects, and warns if that takes a long time: a hypervisor may accept a connection but not respond.
    async fn connect(&mut self) -> Result<Connected, HypervisorError> {
        let Self { uri, driver, sender, reported } = self;
        let connect = driver.connect();
        tokio::pin!(connect);
        if let Ok(result) = timeout(CONNECT_WARNING, &mut connect).await {
            return result;
        }
        if !std::mem::replace(reported, true) {
            tracing::warn!(
                MESSAGE_ID = kind::HYPERVISOR_UNAVAILABLE,
                WAKEVIRT_CONNECTION = &**uri,
                "no connection to {uri} yet: the hypervisor does not respond; still waiting"
            );
            let _ = sender.send(Update::Down(Arc::clone(uri))).await;
        }
        connect.await
    }

    /// Reports changes until the connection is lost.
    async fn follow(&mut self, Connected { hypervisor, domains }: Connected) {
        let uri = &self.uri;
        let s = if domains.len() == 1 { "" } else { "s" };
        tracing::info!(
            MESSAGE_ID = kind::HYPERVISOR_CONNECTED,
            WAKEVIRT_CONNECTION = &**uri,
            "connected to {uri}: {} domain{s}",
            domains.len()
        );
        self.reported = false;
        let updates = Updates { uri: Arc::clone(uri), hypervisor, sender: self.sender.clone() };
        updates.all(domains).await;
        let reason = self.driver.follow(&updates).await;
        tracing::warn!(
            MESSAGE_ID = kind::HYPERVISOR_LOST,
            WAKEVIRT_CONNECTION = &**uri,
            "connection to {uri} lost: {reason}; reconnecting"
        );
        updates.send(Update::Down(Arc::clone(uri))).await;
        updates.send(Update::Failed(Arc::clone(uri), reason)).await;
    }

    /// Reports a failed attempt. Only the first of a series is logged as a warning.
    async fn report_failure(&mut self, error: &HypervisorError) {
        let uri = &self.uri;
        if std::mem::replace(&mut self.reported, true) {
            tracing::debug!("no connection to {uri}: {error}");
        } else {
            tracing::warn!(
                MESSAGE_ID = kind::HYPERVISOR_UNAVAILABLE,
                WAKEVIRT_CONNECTION = &**uri,
                "no connection to {uri}: {error}; retrying"
            );
            let _ = self.sender.send(Update::Down(Arc::clone(uri))).await;
        }
        let _ = self.sender.send(Update::Failed(Arc::clone(uri), error.to_string())).await;
    }
}

#[cfg(test)]
mod tests;
