//! Admission of method calls, with limits for each sender, for each user and in total.
//!
//! A call is admitted before the service does any work for it, and counts against the limits until its reply has been
//! written. A call that expects no reply counts like any other.

mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};
use tokio::task::JoinSet;
use zbus::Connection;

use table::{Account, Cost, Key, OpenCall, Table};

/// The maximum number of senders that are waiting for a lookup.
const LOOKUP_QUEUE: usize = 512;
/// The maximum number of concurrent lookups. During a flood, the bus may reply to a lookup only after it has delivered
/// the calls that it has queued.
const PARALLEL_LOOKUPS: usize = 64;

/// How much time a call of each kind takes from its user's budget, which is one second per second. This limits
/// how long it takes to read a flood that the bus has queued, and therefore how long the next callers wait.
const QUICK: Duration = Duration::from_micros(500);
const SLOW: Duration = Duration::from_millis(5);
const LARGE: Duration = Duration::from_millis(25);

/// The limits on the calls that a service accepts.
#[derive(Debug, Clone)]
pub struct CallLimits {
    /// The maximum length of a call, in bytes.
    pub max_bytes: usize,
    /// The methods that can take a long time. All others reply immediately.
    pub slow: &'static [&'static str],
    /// The methods with a large reply.
    pub large: &'static [&'static str],
    /// The IDs of users whose calls do not share limits with the calls of other users: see [`trusted_uids`].
    pub trusted_uids: Vec<u32>,
    /// Whether to stop reading calls while too many senders are unknown. This requires a separate connection for the
    /// lookups.
    pub pause_for_lookup: bool,
}

/// The user IDs of root, of the service itself, and of the named users that exist.
#[must_use]
pub fn trusted_uids(names: &[&str]) -> Vec<u32> {
    let named = names.iter().filter_map(|name| User::from_name(name).ok().flatten());
    let named = named.map(|user| user.uid);
    [Uid::from_raw(0), Uid::effective()].into_iter().chain(named).map(Uid::as_raw).collect()
}

impl CallLimits {
    fn cost(&self, call: &Call<'_>) -> Cost {
        let is_in = |methods: &[&str]| methods.contains(&call.member);
        let (quick, large) = (!is_in(self.slow), is_in(self.large));
        let time = if large { LARGE } else { SLOW };
        Cost { bytes: call.bytes, quick, large, time: if quick && !large { QUICK } else { time } }
    }
}

/// A call that has not been admitted yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    /// The sender's unique name.
    pub sender: &'a str,
    pub serial: u32,
    pub member: &'a str,
    /// The length of the message.
    pub bytes: usize,
    pub wants_reply: bool,
}

/// The calls in progress. Clones share one table.
#[derive(Debug, Clone)]
pub struct CallLimiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: CallLimits,
    table: Mutex<Table>,
    lookups: mpsc::Sender<Box<str>>,
    lookup_queue: AsyncMutex<mpsc::Receiver<Box<str>>>,
    /// Notified after each lookup.
    looked_up: Notify,
}

/// Counts an admitted call until the permit goes out of scope.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: CallLimiter,
    key: Key,
    open: OpenCall,
}

impl Permit {
    pub(super) const fn wants_reply(&self) -> bool {
        self.open.wants_reply
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.table().release(&self.key.0, &self.open);
    }
}

impl CallLimiter {
    /// Creates a limiter without calls in progress.
    #[must_use]
    pub fn new(limits: CallLimits) -> Self {
        let (lookups, lookup_queue) = mpsc::channel(LOOKUP_QUEUE);
        let table = Mutex::new(Table::new());
        let (lookup_queue, looked_up) = (AsyncMutex::new(lookup_queue), Notify::new());
        Self(Arc::new(Shared { limits, table, lookups, lookup_queue, looked_up }))
    }

    /// The maximum length of a call, in bytes.
    pub(super) fn max_bytes(&self) -> usize {
        self.0.limits.max_bytes
    }

    /// Whether the call is admitted. An admitted call counts until its permit is [taken](Self::take_permit) and dropped.
    pub(super) fn admit(&self, call: &Call<'_>, now: Instant) -> bool {
        let limits = &self.0.limits;
        let mut table = self.table();
        let account = table.users.get(call.sender).copied().map_or(Account::Unknown, Account::User);
        if account == Account::Unknown {
            self.request_lookup(&mut table, call.sender);
        }
        let is_trusted = matches!(account, Account::User(user) if limits.trusted_uids.contains(&user));
        let cost = limits.cost(call);
        let has_room =
            |table: &Table| table.has_room(call.sender, account, is_trusted, cost, limits.max_bytes);
        let has_time = is_trusted || table.has_time(account, now);
        let key = (Box::from(call.sender), call.serial);
        if !has_room(&table) {
            table.sweep(now);
        }
        // The replies to two calls with the same serial are indistinguishable. No library sends such calls.
        let admitted = has_time && has_room(&table) && !table.open.contains_key(&key);
        if admitted {
            let connection = table.connection;
            table.insert(
                key,
                OpenCall { account, cost, wants_reply: call.wants_reply, since: now, connection },
            );
        } else {
            table.log_refusal(call.sender, now);
        }
        admitted
    }

    /// Removes all senders and calls, for a new connection. The connection may be to a different bus, which assigns the
    /// same names to other connections.
    pub(super) fn reset(&self) {
        self.table().reset();
    }

    /// Removes and returns the permit of the call to which a reply belongs.
    pub(super) fn take_permit(&self, sender: &str, serial: u32) -> Option<Permit> {
        let key = (Box::from(sender), serial);
        let open = self.table().open.remove(&key)?;
        Some(Permit { limiter: self.clone(), key, open })
    }

    pub(super) fn pauses_for_lookup(&self) -> bool {
        self.0.limits.pause_for_lookup
    }

    pub(super) fn is_known(&self, sender: &str) -> bool {
        self.table().users.contains_key(sender)
    }

    /// Whether a lookup of this sender is pending. Requests one if its user is unknown.
    pub(super) fn awaits_lookup(&self, sender: &str) -> bool {
        let mut table = self.table();
        if table.users.contains_key(sender) {
            return false;
        }
        self.request_lookup(&mut table, sender);
        table.lookups.contains(sender)
    }

    /// Waits until a lookup has finished.
    pub(super) async fn lookup_finished(&self) {
        self.0.looked_up.notified().await;
    }

    /// The senders whose lookups have finished since the last call to this function.
    pub(super) fn take_looked_up(&self) -> Vec<Box<str>> {
        std::mem::take(&mut self.table().looked_up)
    }

    /// Queries the bus for the user of each sender, while the service is connected. The senders of one user share that
    /// user's limits. The calls from an unknown sender wait, or share one limit with the calls from all other unknown
    /// senders.
    pub async fn look_up_senders(&self, bus: &Connection) {
        let mut queue = self.0.lookup_queue.lock().await;
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(sender) = queue.recv(), if running.len() < PARALLEL_LOOKUPS => {
                    let (limiter, bus) = (self.clone(), bus.clone());
                    running.spawn(async move { limiter.look_up(&bus, sender).await });
                }
                Some(_) = running.join_next() => {}
                else => return,
            }
        }
    }

    async fn look_up(&self, bus: &Connection, sender: Box<str>) {
        let user = user_of(bus, &sender).await;
        // A sender that has disconnected sends no more calls.
        let user =
            user.inspect_err(|error| tracing::debug!("cannot look up the user of {sender}: {error}")).ok();
        self.set_user(sender, user);
    }

    pub(super) fn set_user(&self, sender: Box<str>, user: Option<u32>) {
        self.table().set_user(sender, user, &self.0.limits.trusted_uids);
        self.0.looked_up.notify_one();
    }

    fn request_lookup(&self, table: &mut Table, sender: &str) {
        if table.lookups.contains(sender) {
            return;
        }
        // If the queue is full, the sender's next call requests the lookup.
        if self.0.lookups.try_send(sender.into()).is_ok() {
            table.lookups.insert(sender.into());
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn user_of(bus: &Connection, sender: &str) -> zbus::Result<u32> {
    const BUS: &str = "org.freedesktop.DBus";
    let method = "GetConnectionUnixUser";
    bus.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), method, &sender)
        .await?
        .body()
        .deserialize()
}

#[cfg(test)]
mod tests;
