use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::*;
use crate::hypervisor::State as DomainState;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What opens connections that do nothing.
#[derive(Default)]
struct Daemon {
    opened: Mutex<Vec<(usize, Arc<dyn Listener>)>>,
    closed: AtomicUsize,
    guarded: AtomicUsize,
    refuses: AtomicBool,
}

struct Nothing(Arc<Daemon>);

impl Session for Nothing {
    fn state(&self, _: Uuid) -> Result<DomainState, Error> {
        Err(Error::NotConnected)
    }

    fn start(&self, _: Uuid) -> Result<(), Error> {
        Err(Error::NotConnected)
    }

    fn resume(&self, _: Uuid) -> Result<(), Error> {
        Err(Error::NotConnected)
    }

    fn pm_wakeup(&self, _: Uuid) -> Result<(), Error> {
        Err(Error::NotConnected)
    }

    fn is_alive(&self) -> bool {
        true
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Daemon {
    fn opener(self: &Arc<Self>) -> Opener {
        let daemon = Arc::clone(self);
        Arc::new(move |seat, listener| {
            if daemon.refuses.load(Ordering::SeqCst) {
                return Err(Error::NotConnected);
            }
            daemon.opened.lock().unwrap().push((seat, Arc::clone(listener)));
            let guards = Arc::clone(&daemon);
            let guard = Arc::new(move || {
                guards.guarded.fetch_add(1, Ordering::SeqCst);
            });
            Ok(Connection { session: Box::new(Nothing(Arc::clone(&daemon))), guard })
        })
    }

    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    /// Ends the newest connection of a seat.
    fn disconnect(&self, seat: usize) {
        let opened = self.opened.lock().unwrap().clone();
        let (_, listener) = opened.iter().rfind(|(opened, _)| *opened == seat).unwrap();
        listener.closed("gone");
    }
}

/// A pool with so many connections.
fn pool(daemon: &Arc<Daemon>, ahead: usize) -> (Pool, u64) {
    let pool = Pool::start(&"fake:///".into()).unwrap();
    let generation = pool.open(ahead, daemon.opener());
    until(|| pool.0.state().idle.len() == ahead);
    (pool, generation)
}

fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Work that tells when it begins, and waits until it is let go.
fn slow(pool: &Pool, generation: u64) -> (Receiver<()>, Sender<()>, oneshot::Receiver<()>) {
    let (begins, has_begun) = channel();
    let (let_go, go) = channel();
    let (ends, has_ended) = oneshot::channel();
    pool.0.run(
        generation,
        Box::new(move |_| {
            let _ = begins.send(());
            let _ = go.recv();
            let _ = ends.send(());
        }),
    );
    (has_begun, let_go, has_ended)
}

#[test]
fn four_slow_works_delay_no_other_and_more_wait_in_order() {
    let (pool, generation) = pool(&Arc::default(), SEATS);
    let slow_ones: Vec<_> = (1..SEATS).map(|_| slow(&pool, generation)).collect();
    for (has_begun, ..) in &slow_ones {
        has_begun.recv_timeout(PATIENCE).unwrap();
    }
    for _ in 0..100 {
        let (has_begun, let_go, has_ended) = slow(&pool, generation);
        drop(let_go);
        has_begun.recv_timeout(PATIENCE).unwrap();
        has_ended.blocking_recv().unwrap();
    }
    let fifth = slow(&pool, generation);
    fifth.0.recv_timeout(PATIENCE).unwrap();
    let (first, second) = (slow(&pool, generation), slow(&pool, generation));
    assert_eq!(pool.0.waiting(), 2);
    drop(fifth.1);
    first.0.recv_timeout(PATIENCE).unwrap();
    assert_eq!(pool.0.waiting(), 1);
    assert!(second.0.try_recv().is_err());
    drop(first.1);
    second.0.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn one_that_is_full_holds_up_no_other() {
    let ((full, generation), (other, others)) = (pool(&Arc::default(), SEATS), pool(&Arc::default(), SEATS));
    let works: Vec<_> = (0..2 * SEATS).map(|_| slow(&full, generation)).collect();
    until(|| full.0.waiting() == SEATS);
    let (has_begun, ..) = slow(&other, others);
    has_begun.recv_timeout(PATIENCE).unwrap();
    drop(works);
}

#[test]
fn no_thread_is_made_for_work() {
    let (pool, generation) = pool(&Arc::default(), SEATS);
    let (sender, threads) = channel();
    for _ in 0..1000 {
        let sender = sender.clone();
        pool.0.run(generation, Box::new(move |_| sender.send(std::thread::current().id()).unwrap()));
    }
    drop(sender);
    let threads: Vec<_> = threads.iter().collect();
    assert_eq!(threads.len(), 1000);
    assert!(threads.into_iter().collect::<HashSet<_>>().len() <= SEATS);
}

#[test]
fn what_waits_is_dropped_when_the_link_is_lost() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, SEATS);
    let under_way: Vec<_> = (0..SEATS).map(|_| slow(&pool, generation)).collect();
    for (has_begun, ..) in &under_way {
        has_begun.recv_timeout(PATIENCE).unwrap();
    }
    let (.., waits) = slow(&pool, generation);
    pool.close();
    assert!(waits.blocking_recv().is_err(), "it was done");
    let (.., comes_later) = slow(&pool, generation);
    assert!(comes_later.blocking_recv().is_err(), "it was done without a link");
    for (_, let_go, has_ended) in under_way {
        drop(let_go);
        has_ended.blocking_recv().unwrap();
    }
    until(|| daemon.closed.load(Ordering::SeqCst) == SEATS);
    assert_eq!(daemon.guarded.load(Ordering::SeqCst), SEATS, "to close a connection is a call");
    let generation = pool.open(SEATS, daemon.opener());
    let (_, let_go, has_ended) = slow(&pool, generation);
    drop(let_go);
    has_ended.blocking_recv().unwrap();
}

#[test]
fn a_lost_connection_is_opened_again_and_delays_nothing() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, 2);
    daemon.disconnect(0);
    let (_, let_go, has_ended) = slow(&pool, generation);
    drop(let_go);
    has_ended.blocking_recv().unwrap();
    until(|| daemon.opened() >= 3 && pool.0.state().idle.contains(&0));
}

#[test]
fn a_call_that_takes_long_is_guarded_and_its_connection_replaced() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, SEATS);
    let (has_begun, let_go, has_ended) = slow(&pool, generation);
    has_begun.recv_timeout(PATIENCE).unwrap();
    assert!(pool.0.check(Instant::now()), "there is work");
    assert_eq!(daemon.guarded.load(Ordering::SeqCst), 0, "it is not slow yet");
    for _ in 0..2 {
        assert!(pool.0.check(Instant::now() + SLOW));
        assert_eq!(daemon.guarded.load(Ordering::SeqCst), 1, "once");
    }
    drop(let_go);
    has_ended.blocking_recv().unwrap();
    until(|| daemon.opened() == SEATS + 1);
    assert_eq!(daemon.closed.load(Ordering::SeqCst), 1);
    until(|| !pool.0.check(Instant::now()));
}

#[test]
fn a_call_is_guarded_when_the_link_is_lost() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, SEATS);
    let (has_begun, let_go, has_ended) = slow(&pool, generation);
    has_begun.recv_timeout(PATIENCE).unwrap();
    pool.close();
    assert!(daemon.guarded.load(Ordering::SeqCst) >= 1, "nothing looks after it any more");
    assert!(pool.0.state().calls.iter().flatten().all(|call| call.guarded));
    drop(let_go);
    has_ended.blocking_recv().unwrap();
    until(|| daemon.closed.load(Ordering::SeqCst) == SEATS);
    assert_eq!(daemon.guarded.load(Ordering::SeqCst), SEATS, "each once");
}

#[tokio::test]
async fn calls_are_looked_after_on_each_new_link() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, SEATS);
    let first = slow(&pool, generation);
    first.0.recv_timeout(PATIENCE).unwrap();
    // The link is lost while this looks after the call.
    assert!(tokio::time::timeout(Duration::ZERO, pool.look_after()).await.is_err());
    pool.close();
    let generation = pool.open(SEATS, daemon.opener());
    until(|| !pool.0.state().idle.is_empty());
    let second = slow(&pool, generation);
    second.0.recv_timeout(PATIENCE).unwrap();
    for call in pool.0.state().calls.iter_mut().flatten() {
        call.since -= SLOW;
    }
    let is_guarded = async {
        while !pool.0.state().calls.iter().flatten().all(|call| call.guarded) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = pool.look_after() => {}
        () = is_guarded => {}
        () = tokio::time::sleep(PATIENCE) => panic!("nothing looks after the call of the new link"),
    }
}

#[tokio::test]
async fn a_connection_of_the_lost_link_does_not_count() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, SEATS);
    let under_way = slow(&pool, generation);
    under_way.0.recv_timeout(PATIENCE).unwrap();
    pool.close();
    daemon.refuses.store(true, Ordering::SeqCst);
    pool.open(SEATS, daemon.opener());
    assert_eq!(*pool.0.live.borrow(), 0, "there is none that a wake could use");
    drop(under_way.1);
    until(|| daemon.closed.load(Ordering::SeqCst) == SEATS);
    assert_eq!(*pool.0.live.borrow(), 0);
    daemon.refuses.store(false, Ordering::SeqCst);
    pool.ready().await;
}

#[test]
fn opens_more_only_for_work() {
    let daemon = Arc::<Daemon>::default();
    let (pool, generation) = pool(&daemon, 1);
    let first = slow(&pool, generation);
    first.0.recv_timeout(PATIENCE).unwrap();
    assert_eq!(daemon.opened(), 1);
    let second = slow(&pool, generation);
    second.0.recv_timeout(PATIENCE).unwrap();
    assert_eq!(daemon.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn is_lost_when_nothing_can_be_opened() {
    let daemon = Arc::<Daemon>::default();
    let (pool, _) = pool(&daemon, 1);
    let lost = pool.lost();
    tokio::pin!(lost);
    assert!(tokio::time::timeout(10 * GRACE, &mut lost).await.is_err(), "there is one");
    daemon.refuses.store(true, Ordering::SeqCst);
    daemon.disconnect(0);
    lost.await;
    until(|| pool.error() == Error::NotConnected.to_string());
}

#[test]
fn its_threads_end_with_it() {
    let (pool, _) = pool(&Arc::default(), SEATS);
    let shared = Arc::downgrade(&pool.0);
    drop(pool);
    until(|| shared.strong_count() == 0);
}
