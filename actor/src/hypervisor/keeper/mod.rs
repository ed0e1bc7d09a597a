//! Keeps one connection to a hypervisor open: connects, follows its changes, and reconnects.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;
use wakevirt_service::bus::Backoff;

use super::{Hypervisor, HypervisorError, Update};
use crate::model::{Domain, Id};

/// How long a hypervisor may take to connect before the log reports it. The attempt continues.
const CONNECT_WARNING: Duration = Duration::from_secs(10);

/// Connects to one kind of hypervisor. The program chooses it. Each value is for one URI; the keeper calls its methods
/// in the order connect, follow, close, and begins again.
pub trait Driver: Sized + Send + 'static {
    /// Prepares the process. It is called once, before the process has any state to lose.
    ///
    /// # Errors
    /// If the process cannot be prepared.
    fn prepare(uris: &[String]) -> io::Result<()>;

    /// Starts what the connection to this URI needs. There is no connection yet.
    ///
    /// # Errors
    /// If a resource of the system is missing.
    fn start(uri: &Arc<str>) -> io::Result<Self>;

    /// The commands for a user of this URI.
    fn commands(uri: &str) -> Commands;

    /// Connects and lists the domains. It may take as long as the hypervisor takes.
    ///
    /// # Errors
    /// If there is no connection, or the domains cannot be listed.
    fn connect(&mut self) -> impl Future<Output = Result<Connected, HypervisorError>> + Send;

    /// Reports the changes since [`Driver::connect`] until the connection is lost; returns the reason.
    fn follow(&mut self, updates: &Updates) -> impl Future<Output = String> + Send;

    /// Closes the connection, also one that is half open.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// A configured connection.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The URI, which identifies the connection.
    pub uri: Arc<str>,
    /// The commands for a user of it.
    pub commands: Commands,
}

impl Endpoint {
    /// The connection with this URI of a driver.
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
    /// These are all domains, in place of those that were reported before.
    pub async fn all(&self, domains: Vec<Domain>) {
        let hypervisor = Arc::clone(&self.hypervisor);
        self.send(Update::Up(Arc::clone(&self.uri), hypervisor, domains)).await;
    }

    /// This domain is changing; a report of the domain follows.
    pub async fn changing(&self, uuid: Uuid) {
        self.send(Update::Changing(self.id(uuid))).await;
    }

    /// This domain is new or has changed.
    pub async fn domain(&self, domain: Domain) {
        self.send(Update::Domain(domain)).await;
    }

    /// This domain no longer exists.
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

/// Keeps one connection open.
pub struct Keeper<D> {
    uri: Arc<str>,
    driver: D,
    sender: mpsc::Sender<Update>,
    /// Whether the log and the engine know that there is no connection.
    reported: bool,
}

impl<D: Driver> Keeper<D> {
    /// A keeper that has not connected yet.
    ///
    /// # Errors
    /// If the driver cannot be started.
    pub fn start(uri: Arc<str>, sender: mpsc::Sender<Update>) -> io::Result<Self> {
        Ok(Self { driver: D::start(&uri)?, uri, sender, reported: false })
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

    /// Connects. A hypervisor may accept a connection and not answer.
    async fn connect(&mut self) -> Result<Connected, HypervisorError> {
        let Self { uri, driver, sender, reported } = self;
        let connecting = driver.connect();
        tokio::pin!(connecting);
        if let Ok(result) = timeout(CONNECT_WARNING, &mut connecting).await {
            return result;
        }
        if !std::mem::replace(reported, true) {
            tracing::warn!("no connection to {uri} yet: it does not answer; waiting for it");
            let _ = sender.send(Update::Down(Arc::clone(uri))).await;
        }
        connecting.await
    }

    /// Follows the changes until the connection is lost.
    async fn follow(&mut self, Connected { hypervisor, domains }: Connected) {
        let uri = &self.uri;
        let s = if domains.len() == 1 { "" } else { "s" };
        tracing::info!("connected to {uri}: {} domain{s}", domains.len());
        self.reported = false;
        let updates = Updates { uri: Arc::clone(uri), hypervisor, sender: self.sender.clone() };
        updates.all(domains).await;
        let reason = self.driver.follow(&updates).await;
        tracing::warn!("connection to {uri} lost: {reason}; reconnecting");
        updates.send(Update::Down(Arc::clone(uri))).await;
    }

    /// Reports the first of a series of failed attempts.
    async fn report_failure(&mut self, error: &HypervisorError) {
        let uri = &self.uri;
        if std::mem::replace(&mut self.reported, true) {
            return tracing::debug!("no connection to {uri}: {error}");
        }
        tracing::warn!("no connection to {uri}: {error}; retrying");
        let _ = self.sender.send(Update::Down(Arc::clone(uri))).await;
    }
}

#[cfg(test)]
mod tests;
