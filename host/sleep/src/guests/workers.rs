//! Work on several domains in parallel.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::libvirt::{Connection, Guest, LibvirtError, State};

/// The maximum number of threads and connections. libvirt's daemon handles 20 calls at a time (`max_workers` in
/// libvirtd.conf); further calls wait there.
const MAX_WORKERS: usize = 32;
/// How often a state is queried while it changes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Runs `work` once for each item, each time with a connection that no other thread uses. Returns the results in the
/// order of the items. `None` if there is no result at the deadline; libvirt may complete the call later.
pub(super) fn run<T: Clone + Send + 'static, R: Send + 'static>(
    uri: &str,
    items: &[T],
    deadline: Instant,
    work: fn(Result<&Connection, &LibvirtError>, &T, Instant) -> R,
) -> Vec<Option<R>> {
    let queue: VecDeque<(usize, T)> = items.iter().cloned().enumerate().collect();
    let queue = Arc::new(Mutex::new(queue));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..items.len().min(MAX_WORKERS) {
        let (uri, queue, sender) = (uri.to_owned(), Arc::clone(&queue), sender.clone());
        // If a thread cannot be created, the others do its work.
        let _thread = std::thread::Builder::new().name("libvirt-domain".to_owned()).spawn(move || {
            let connection = Connection::open(&uri);
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some((number, item)) = next() {
                // The receiver is dropped at the deadline.
                if sender.send((number, work(connection.as_ref(), &item, deadline))).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    while let Ok((number, result)) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        if let Some(slot) = results.get_mut(number) {
            *slot = Some(result);
        }
    }
    results
}

/// Waits until the state of a domain satisfies the condition, at most until the deadline. Returns the last state.
pub(super) fn wait_for(
    guest: &Guest,
    deadline: Instant,
    condition: impl Fn(State) -> bool,
) -> Result<State, LibvirtError> {
    loop {
        let state = guest.state()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if condition(state) || left.is_zero() {
            return Ok(state);
        }
        std::thread::sleep(POLL_INTERVAL.min(left));
    }
}
