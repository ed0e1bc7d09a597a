use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::shared::SLOW;
use super::*;
use wakevirt_actor::hypervisor::HypervisorError;
use wakevirt_actor::hypervisor::session::Session;
use wakevirt_actor::model::{State, Stop};
use wakevirt_libvirt::events::Listener;

/// How long an operation may take before a test fails.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Opens connections whose calls fail.
#[derive(Default)]
struct Daemon {
    opened: Mutex<Vec<(usize, Arc<dyn Listener>)>>,
    closed: AtomicUsize,
    keepalives: AtomicUsize,
    rejects: AtomicBool,
}

struct FailingSession(Arc<Daemon>);

impl Session for FailingSession {
    fn state(&self, _: Uuid) -> Result<State, HypervisorError> {
        Err(HypervisorError::NotConnected)
    }

    fn last_stop(&self, _: Uuid) -> Result<Stop, HypervisorError> {
        Err(HypervisorError::NotConnected)
    }

    fn start(&self, _: Uuid) -> Result<(), HypervisorError> {
        Err(HypervisorError::NotConnected)
    }

    fn resume(&self, _: Uuid) -> Result<(), HypervisorError> {
        Err(HypervisorError::NotConnected)
    }

    fn pm_wakeup(&self, _: Uuid) -> Result<(), HypervisorError> {
        Err(HypervisorError::NotConnected)
    }

    fn is_alive(&self) -> bool {
        true
    }
}

impl Drop for FailingSession {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Daemon {
    fn opener(self: &Arc<Self>) -> Opener {
        let daemon = Arc::clone(self);
        Arc::new(move |worker, listener| {
            if daemon.rejects.load(Ordering::SeqCst) {
                return Err(HypervisorError::NotConnected);
            }
            daemon.opened.lock().unwrap().push((worker, Arc::clone(listener)));
            let counter = Arc::clone(&daemon);
            let keepalive = Arc::new(move || {
                counter.keepalives.fetch_add(1, Ordering::SeqCst);
            });
            Ok(PooledConnection { session: Box::new(FailingSession(Arc::clone(&daemon))), keepalive })
        })
    }

    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    /// Ends the newest connection of a worker.
    fn disconnect(&self, worker: usize) {
        let opened = self.opened.lock().unwrap().clone();
        let (_, listener) = opened.iter().rfind(|(opened, _)| *opened == worker).unwrap();
        listener.closed("lost");
    }
}

/// A pool with this many connections.
fn pool(daemon: &Arc<Daemon>, connections: usize) -> (Pool, u64) {
    let pool = Pool::start(&"fake:///".into()).unwrap();
    let generation = pool.open(connections, daemon.opener());
    wait_until(|| pool.0.state().idle.len() == connections);
    (pool, generation)
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "timeout");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Work that reports its start, and runs until it is released.
fn slow(pool: &Pool, generation: u64) -> (Receiver<()>, Sender<()>, oneshot::Receiver<()>) {
    let (begins, has_begun) = channel();
    let (release, released) = channel();
    let (ends, has_ended) = oneshot::channel();
    pool.0.run(
        generation,
        Box::new(move |_| {
            let _ = begins.send(());
            let _ = released.recv();
            let _ = ends.send(());
        }),
    );
    (has_begun, release, has_ended)
}

#[test]
fn four_slow_calls_do_not_delay_others_and_further_work_is_queued_in_order() {
    let (pool, generation) = pool(&Arc::default(), MAX_CONNECTIONS);
    let slow_calls: Vec<_> = (1..MAX_CONNECTIONS).map(|_| slow(&pool, generation)).collect();
    for (has_begun, ..) in &slow_calls {
        has_begun.recv_timeout(TIMEOUT).unwrap();
    }
    for _ in 0..100 {
        let (has_begun, release, has_ended) = slow(&pool, generation);
        drop(release);
        has_begun.recv_timeout(TIMEOUT).unwrap();
        has_ended.blocking_recv().unwrap();
    }
    let fifth = slow(&pool, generation);
    fifth.0.recv_timeout(TIMEOUT).unwrap();
    let (first, second) = (slow(&pool, generation), slow(&pool, generation));
    assert_eq!(pool.0.queued(), 2);
    drop(fifth.1);
    first.0.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(pool.0.queued(), 1);
    assert!(second.0.try_recv().is_err());
    drop(first.1);
    second.0.recv_timeout(TIMEOUT).unwrap();
}

#[test]
fn a_full_pool_does_not_delay_other_pools() {
    let ((full, generation), (other, others)) =
        (pool(&Arc::default(), MAX_CONNECTIONS), pool(&Arc::default(), MAX_CONNECTIONS));
    let works: Vec<_> = (0..2 * MAX_CONNECTIONS).map(|_| slow(&full, generation)).collect();
    wait_until(|| full.0.queued() == MAX_CONNECTIONS);
    let (has_begun, ..) = slow(&other, others);
    has_begun.recv_timeout(TIMEOUT).unwrap();
    drop(works);
}

#[test]
fn does_not_create_threads_for_work() {
    let (pool, generation) = pool(&Arc::default(), MAX_CONNECTIONS);
    let (sender, threads) = channel();
    for _ in 0..1000 {
        let sender = sender.clone();
        pool.0.run(generation, Box::new(move |_| sender.send(std::thread::current().id()).unwrap()));
    }
    drop(sender);
    let threads: Vec<_> = threads.iter().collect();
    assert_eq!(threads.len(), 1000);
    assert!(threads.into_iter().collect::<HashSet<_>>().len() <= MAX_CONNECTIONS);
}

#[test]
fn closing_drops_queued_work() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, MAX_CONNECTIONS);
    let in_progress: Vec<_> = (0..MAX_CONNECTIONS).map(|_| slow(&pool, generation)).collect();
    for (has_begun, ..) in &in_progress {
        has_begun.recv_timeout(TIMEOUT).unwrap();
    }
    let (.., queued) = slow(&pool, generation);
    pool.close();
    assert!(queued.blocking_recv().is_err(), "it ran");
    let (.., too_late) = slow(&pool, generation);
    assert!(too_late.blocking_recv().is_err(), "it ran on a closed pool");
    for (_, release, has_ended) in in_progress {
        drop(release);
        has_ended.blocking_recv().unwrap();
    }
    wait_until(|| daemon.closed.load(Ordering::SeqCst) == MAX_CONNECTIONS);
    assert_eq!(daemon.keepalives.load(Ordering::SeqCst), MAX_CONNECTIONS, "closing a connection is a call");
    let generation = pool.open(MAX_CONNECTIONS, daemon.opener());
    let (_, release, has_ended) = slow(&pool, generation);
    drop(release);
    has_ended.blocking_recv().unwrap();
}

#[test]
fn a_lost_connection_is_reopened_and_does_not_delay_work() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, 2);
    daemon.disconnect(0);
    let (_, release, has_ended) = slow(&pool, generation);
    drop(release);
    has_ended.blocking_recv().unwrap();
    wait_until(|| daemon.opened() >= 3 && pool.0.state().idle.contains(&0));
}

#[test]
fn a_slow_call_starts_keepalive_and_its_connection_is_replaced() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, MAX_CONNECTIONS);
    let (has_begun, release, has_ended) = slow(&pool, generation);
    has_begun.recv_timeout(TIMEOUT).unwrap();
    assert!(pool.0.check(Instant::now()), "there is work");
    assert_eq!(daemon.keepalives.load(Ordering::SeqCst), 0, "it is not slow yet");
    for _ in 0..2 {
        assert!(pool.0.check(Instant::now() + SLOW));
        assert_eq!(daemon.keepalives.load(Ordering::SeqCst), 1, "once");
    }
    drop(release);
    has_ended.blocking_recv().unwrap();
    wait_until(|| daemon.opened() == MAX_CONNECTIONS + 1);
    assert_eq!(daemon.closed.load(Ordering::SeqCst), 1);
    wait_until(|| !pool.0.check(Instant::now()));
}

#[test]
fn closing_starts_keepalive_for_calls_in_progress() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, MAX_CONNECTIONS);
    let (has_begun, release, has_ended) = slow(&pool, generation);
    has_begun.recv_timeout(TIMEOUT).unwrap();
    pool.close();
    assert!(daemon.keepalives.load(Ordering::SeqCst) >= 1, "nothing checks it after closing");
    assert!(pool.0.state().running.iter().flatten().all(|call| call.has_keepalive));
    drop(release);
    has_ended.blocking_recv().unwrap();
    wait_until(|| daemon.closed.load(Ordering::SeqCst) == MAX_CONNECTIONS);
    assert_eq!(daemon.keepalives.load(Ordering::SeqCst), MAX_CONNECTIONS, "each once");
}

#[tokio::test]
async fn calls_are_watched_each_time_the_pool_is_opened() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, MAX_CONNECTIONS);
    let first = slow(&pool, generation);
    first.0.recv_timeout(TIMEOUT).unwrap();
    // The pool is closed while the call is watched.
    assert!(tokio::time::timeout(Duration::ZERO, pool.watch()).await.is_err());
    pool.close();
    let generation = pool.open(MAX_CONNECTIONS, daemon.opener());
    wait_until(|| !pool.0.state().idle.is_empty());
    let second = slow(&pool, generation);
    second.0.recv_timeout(TIMEOUT).unwrap();
    for call in pool.0.state().running.iter_mut().flatten() {
        call.since -= SLOW;
    }
    let has_keepalive = async {
        while !pool.0.state().running.iter().flatten().all(|call| call.has_keepalive) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = pool.watch() => {}
        () = has_keepalive => {}
        () = tokio::time::sleep(TIMEOUT) => panic!("the call on the reopened pool is not watched"),
    }
}

#[tokio::test]
async fn a_connection_of_a_closed_generation_does_not_count() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, MAX_CONNECTIONS);
    let in_progress = slow(&pool, generation);
    in_progress.0.recv_timeout(TIMEOUT).unwrap();
    pool.close();
    daemon.rejects.store(true, Ordering::SeqCst);
    pool.open(MAX_CONNECTIONS, daemon.opener());
    assert_eq!(*pool.0.live.borrow(), 0, "no wake can use the old one");
    drop(in_progress.1);
    wait_until(|| daemon.closed.load(Ordering::SeqCst) == MAX_CONNECTIONS);
    assert_eq!(*pool.0.live.borrow(), 0);
    daemon.rejects.store(false, Ordering::SeqCst);
    pool.ready().await;
}

#[test]
fn opens_more_connections_only_for_work() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, 1);
    let first = slow(&pool, generation);
    first.0.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(daemon.opened(), 1);
    let second = slow(&pool, generation);
    second.0.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(daemon.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn is_lost_if_no_connection_can_be_opened() {
    let daemon = Arc::<Daemon>::default();
    let (pool, _) = pool(&daemon, 1);
    let lost = pool.lost();
    tokio::pin!(lost);
    assert!(tokio::time::timeout(10 * LOST_AFTER, &mut lost).await.is_err(), "a connection is open");
    daemon.rejects.store(true, Ordering::SeqCst);
    daemon.disconnect(0);
    lost.await;
    wait_until(|| pool.error() == HypervisorError::NotConnected.to_string());
}

#[test]
fn threads_exit_with_the_pool() {
    let (pool, _) = pool(&Arc::default(), MAX_CONNECTIONS);
    let shared = Arc::downgrade(&pool.0);
    drop(pool);
    wait_until(|| shared.strong_count() == 0);
}
