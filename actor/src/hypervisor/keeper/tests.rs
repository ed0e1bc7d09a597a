use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::hypervisor::{AttemptFuture, AttemptRequest, AttemptResult};
use crate::model::{MacSet, Outcome, State, Stop};

const URI: &str = "fake:///";

/// A driver without threads: a test sends the results of its methods.
struct Scripted {
    connects: mpsc::Receiver<Result<Vec<Domain>, HypervisorError>>,
    events: mpsc::Receiver<Event>,
    closed: Arc<AtomicUsize>,
}

enum Event {
    Changed(Domain),
    Deleted(Uuid),
    Lost,
}

struct RunningDomain;

impl Hypervisor for RunningDomain {
    fn attempt(&self, _: AttemptRequest) -> AttemptFuture {
        Box::pin(async {
            let attempt = AttemptResult::Done(Outcome::AlreadyRunning, "it is running".to_owned());
            Some((Duration::ZERO, attempt))
        })
    }

    fn queued(&self) -> usize {
        0
    }

    fn is_alive(&self) -> bool {
        true
    }
}

impl Driver for Scripted {
    const PROGRAM: Program = Program::TEST;

    fn prepare(_: &[String]) -> io::Result<()> {
        Ok(())
    }

    fn start(_: &Arc<str>, _scope: &Scope, _decisions: &Decisions) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn commands(uri: &str) -> Commands {
        Commands { list_domains: format!("list {uri}"), list_addresses: format!("addresses {uri}") }
    }

    async fn connect(&mut self) -> Result<Connected, HypervisorError> {
        let domains = self.connects.recv().await.unwrap_or(Err(HypervisorError::NotConnected))?;
        Ok(Connected { hypervisor: Arc::new(RunningDomain), domains })
    }

    async fn follow(&mut self, updates: &Updates) -> String {
        while let Some(event) = self.events.recv().await {
            match event {
                Event::Changed(domain) => {
                    updates.changing(domain.id.uuid).await;
                    updates.domain(domain).await;
                }
                Event::Deleted(uuid) => updates.gone(uuid).await,
                Event::Lost => break,
            }
        }
        "the test closed the connection".to_owned()
    }

    async fn close(&mut self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// A running keeper, and the other ends of its channels.
struct Fixture {
    connects: mpsc::Sender<Result<Vec<Domain>, HypervisorError>>,
    events: mpsc::Sender<Event>,
    closed: Arc<AtomicUsize>,
    updates: mpsc::Receiver<Update>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Fixture {
    fn new() -> Self {
        let (connects, connects_out) = mpsc::channel(8);
        let (events, events_out) = mpsc::channel(8);
        let (sender, updates) = mpsc::channel(8);
        let closed = Arc::<AtomicUsize>::default();
        let driver = Scripted { connects: connects_out, events: events_out, closed: Arc::clone(&closed) };
        let keeper = Keeper { uri: URI.into(), driver, sender, reported: false };
        Self { connects, events, closed, updates, keeper: tokio::spawn(keeper.run()) }
    }

    async fn send_result(&self, result: Result<Vec<Domain>, HypervisorError>) {
        assert!(self.connects.send(result).await.is_ok());
    }

    async fn send_event(&self, event: Event) {
        assert!(self.events.send(event).await.is_ok());
    }

    /// The next update, in short form.
    async fn next_update(&mut self) -> String {
        match self.updates.recv().await.unwrap() {
            Update::Up(uri, _, domains) => format!("up {uri} {}", domains.len()),
            Update::Changing(id) => format!("changing {}", id.uuid.as_u128()),
            Update::Running(id) => format!("running {}", id.uuid.as_u128()),
            Update::Domain(domain) => format!("domain {}", domain.name),
            Update::Gone(id) => format!("gone {}", id.uuid.as_u128()),
            Update::Down(uri) => format!("down {uri}"),
            Update::Failed(uri, reason) => format!("failed {uri}: {reason}"),
        }
    }
}

fn domain(number: u8) -> Domain {
    let id = Id { connection: URI.into(), uuid: Uuid::from_u128(number.into()) };
    Domain {
        id,
        name: format!("vm{number}"),
        macs: MacSet::default(),
        opt_in: false,
        labels: crate::model::Labels::default(),
        state: State::ShutOff,
        stop: Stop::Unknown,
    }
}

#[tokio::test(start_paused = true)]
async fn reports_changes_and_reconnects_after_a_loss() {
    let mut fixture = Fixture::new();
    fixture.send_result(Ok(vec![domain(1)])).await;
    assert_eq!(fixture.next_update().await, "up fake:/// 1");
    fixture.send_event(Event::Changed(domain(2))).await;
    assert_eq!(fixture.next_update().await, "changing 2");
    assert_eq!(fixture.next_update().await, "domain vm2");
    fixture.send_event(Event::Deleted(Uuid::from_u128(1))).await;
    assert_eq!(fixture.next_update().await, "gone 1");
    fixture.send_event(Event::Lost).await;
    assert_eq!(fixture.next_update().await, "down fake:///");
    assert_eq!(fixture.next_update().await, "failed fake:///: the test closed the connection");
    fixture.send_result(Ok(vec![domain(2)])).await;
    assert_eq!(fixture.next_update().await, "up fake:/// 1");
    assert_eq!(fixture.closed.load(Ordering::SeqCst), 1, "the lost connection is closed");
}

#[tokio::test(start_paused = true)]
async fn reports_the_reason_of_each_failed_attempt_but_the_loss_once() {
    let mut fixture = Fixture::new();
    for _ in 0..3 {
        fixture.send_result(Err(HypervisorError::NotConnected)).await;
    }
    assert_eq!(fixture.next_update().await, "down fake:///");
    for _ in 0..3 {
        let expected = format!("failed fake:///: {}", HypervisorError::NotConnected);
        assert_eq!(fixture.next_update().await, expected);
    }
    fixture.send_result(Ok(Vec::new())).await;
    assert_eq!(fixture.next_update().await, "up fake:/// 0");
    assert_eq!(fixture.closed.load(Ordering::SeqCst), 3, "each failed attempt is closed");
}

#[tokio::test(start_paused = true)]
async fn reports_a_hypervisor_that_does_not_respond_and_waits_for_it() {
    let mut fixture = Fixture::new();
    let begin = tokio::time::Instant::now();
    assert_eq!(fixture.next_update().await, "down fake:///");
    assert_eq!(begin.elapsed(), CONNECT_WARNING);
    fixture.send_result(Ok(Vec::new())).await;
    assert_eq!(fixture.next_update().await, "up fake:/// 0");
    assert_eq!(fixture.closed.load(Ordering::SeqCst), 0, "the first attempt succeeded");
}

#[tokio::test(start_paused = true)]
async fn exits_when_the_receiver_of_updates_is_dropped() {
    let Fixture { connects, keeper, updates, events, .. } = Fixture::new();
    drop(updates);
    assert!(connects.send(Err(HypervisorError::NotConnected)).await.is_ok());
    keeper.await.unwrap();
    drop(events);
}
