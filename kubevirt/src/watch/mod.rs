//! Watches VirtualMachines: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.

mod namespaces;

use std::pin::pin;
use std::time::Duration;

use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use wakevirt_actor::hypervisor::HypervisorError;

use crate::client::{code, failed};
use crate::machines::object::VirtualMachine;
pub(crate) use namespaces::Selected;
use namespaces::{MAX_ERRORS, TIMEOUT};

/// The number of VirtualMachines in a page of a list. A page is in memory as a whole.
const PAGE: u32 = 100;
/// The maximum number of changes that are queued.
const QUEUE: usize = 64;
/// The delay after an error. It grows with each error in a row.
const DELAY: Duration = Duration::from_millis(100);

/// An event of the watch with this number, or the error that ended it.
pub(crate) type WatchEvent = (usize, Result<Event<VirtualMachine>, HypervisorError>);

/// The watches of a connection, one for each namespace. They end when this value is dropped.
#[derive(Debug)]
pub(crate) struct Watches {
    events: mpsc::Receiver<WatchEvent>,
    count: usize,
    sender: mpsc::Sender<WatchEvent>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Watches these namespaces, or all of them if the list is empty.
    pub fn start(client: &Client, namespaces: &[String], selector: Option<&str>) -> Self {
        let apis: Vec<Api<VirtualMachine>> = match namespaces {
            [] => vec![Api::all(client.clone())],
            some => some.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
        };
        let mut config = watcher::Config::default().page_size(PAGE).timeout(TIMEOUT);
        config.label_selector = selector.map(str::to_owned);
        let (sender, events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let count = apis.len();
        for (number, api) in apis.into_iter().enumerate() {
            tasks.spawn(follow(number, api, config.clone(), sender.clone()));
        }
        Self { events, count, sender, tasks }
    }

    /// Returns the namespaces that this label selector selects. When they change, the next event is an error.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn select(&mut self, client: &Client, selector: &str) -> Result<Selected, HypervisorError> {
        let (listed, selected) = oneshot::channel();
        let (client, selector, sender) = (client.clone(), selector.to_owned(), self.sender.clone());
        self.tasks.spawn(async move {
            // The receiver waits for the list.
            let result = namespaces::follow(client, selector, |names| drop(listed.send(names))).await;
            let error = result.err().unwrap_or(HypervisorError::Scope);
            let _ = sender.send((0, Err(error))).await;
        });
        match selected.await {
            Ok(selected) => Ok(selected),
            // The task has sent its error, perhaps after events of virtual machines.
            Err(_) => loop {
                if let (_, Err(error)) = self.next().await {
                    return Err(error);
                }
            },
        }
    }

    /// The number of watches.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> WatchEvent {
        let ended = (0, Err(HypervisorError::Interrupted));
        self.events.recv().await.unwrap_or(ended)
    }
}

/// Sends the events of a watch, which continues after an interruption. Ends with an error if it cannot continue.
async fn follow(
    number: usize,
    api: Api<VirtualMachine>,
    config: watcher::Config,
    sender: mpsc::Sender<WatchEvent>,
) {
    let mut errors = 0;
    // Lists all objects again in each round.
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let error = loop {
            let error = match events.next().await {
                Some(Ok(event)) => {
                    errors = 0;
                    if sender.send((number, Ok(event))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(Err(error)) => error,
                None => return,
            };
            errors += 1;
            tracing::debug!("watch of virtual machines interrupted: {error}");
            let is_lost = errors >= MAX_ERRORS;
            match error {
                // The watcher lists all objects again.
                watcher::Error::WatchError(status) if status.code == 410 && !is_lost => {}
                // The watcher starts the watch again.
                watcher::Error::WatchError(_) | watcher::Error::WatchFailed(_) if !is_lost => {}
                // The watcher would start the watch from the same revision again.
                watcher::Error::WatchStartFailed(error) if code(&error) == Some(410) && !is_lost => {
                    break None;
                }
                watcher::Error::WatchError(status) => break Some(kube::Error::Api(status)),
                watcher::Error::InitialListFailed(error)
                | watcher::Error::WatchStartFailed(error)
                | watcher::Error::WatchFailed(error) => break Some(error),
                watcher::Error::NoResourceVersion => {
                    let action = "watch the virtual machines";
                    let message = "the API server does not report a revision".to_owned();
                    let _ = sender
                        .send((number, Err(HypervisorError::Call { action, message, advice: "" })))
                        .await;
                    return;
                }
            }
            tokio::time::sleep(DELAY * errors).await;
        };
        if let Some(error) = error {
            // The receiver may have been dropped.
            let _ = sender.send((number, Err(failed("list and watch the virtual machines")(error)))).await;
            return;
        }
    }
}
