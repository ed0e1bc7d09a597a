//! Admission of method calls: how many, and how many bytes, each sender, each user and all callers
//! together may have under way. A call is admitted before anything is done for it; its permit ends when
//! its reply is written. A call without a reply counts like any other.

mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};
use tokio::task::JoinSet;
use zbus::Connection;

use table::{Account, Key, Open, Size, Table};

/// Senders that are waiting to be looked up.
const LOOKUPS: usize = 512;
/// How many are looked up at once. The bus may answer behind what it holds of a flood.
const AT_ONCE: usize = 64;

/// What a call of each kind counts in time. A user has a second of it in each second: what the bus still holds of
/// a flood is soon read, and those who come behind it soon have their turn.
const QUICK: Duration = Duration::from_micros(500);
const SLOW: Duration = Duration::from_millis(5);
const LARGE: Duration = Duration::from_millis(25);

/// What a service takes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest call, in bytes.
    pub longest: usize,
    /// The methods that may take long. All others are answered at once.
    pub slow: &'static [&'static str],
    /// The methods with a large reply.
    pub large: &'static [&'static str],
    /// Users, by number, whom other users' calls do not keep from an answer: see [`trusted`].
    pub trusted: Vec<u32>,
    /// Whether users are looked up on another connection than the one that is called. Then, while too many senders
    /// are not known, nothing more is read from the one that is called.
    pub holds_back: bool,
}

/// Root, the service's own user, and those of these names that there are.
#[must_use]
pub fn trusted(names: &[&str]) -> Vec<u32> {
    let named = names.iter().filter_map(|name| User::from_name(name).ok().flatten());
    let named = named.map(|user| user.uid);
    [Uid::from_raw(0), Uid::effective()].into_iter().chain(named).map(Uid::as_raw).collect()
}

impl Limits {
    fn size(&self, call: &Call<'_>) -> Size {
        let is_in = |methods: &[&str]| methods.contains(&call.member);
        let (quick, large) = (!is_in(self.slow), is_in(self.large));
        let time = if large { LARGE } else { SLOW };
        Size { bytes: call.bytes, quick, large, time: if quick && !large { QUICK } else { time } }
    }
}

/// A call, before anything is done for it.
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

/// The calls under way. Clones count together.
#[derive(Debug, Clone)]
pub struct Calls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    table: Mutex<Table>,
    lookups: mpsc::Sender<Box<str>>,
    looked_up: AsyncMutex<mpsc::Receiver<Box<str>>>,
    /// A sender was looked up.
    answer: Notify,
}

/// A call that was admitted, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    calls: Calls,
    key: Key,
    open: Open,
}

impl Permit {
    pub(super) const fn wants_reply(&self) -> bool {
        self.open.wants_reply
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.calls.table().give_back(&self.key.0, &self.open);
    }
}

impl Calls {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (lookups, looked_up) = mpsc::channel(LOOKUPS);
        let table = Mutex::new(Table::new());
        let (looked_up, answer) = (AsyncMutex::new(looked_up), Notify::new());
        Self(Arc::new(Shared { limits, table, lookups, looked_up, answer }))
    }

    /// The longest call, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.0.limits.longest
    }

    /// Admits a call, until its permit is [closed](Self::close) and dropped; or refuses it.
    pub(super) fn admit(&self, call: &Call<'_>, now: Instant) -> bool {
        let limits = &self.0.limits;
        let mut table = self.table();
        let account = table.users.get(call.sender).copied().map_or(Account::Unknown, Account::User);
        if account == Account::Unknown {
            self.look_up(&mut table, call.sender);
        }
        let is_trusted = matches!(account, Account::User(user) if limits.trusted.contains(&user));
        let size = limits.size(call);
        let room = |table: &Table| table.has_room(call.sender, account, is_trusted, size, limits.longest);
        let has_time = is_trusted || table.has_time(account, now);
        let key = (Box::from(call.sender), call.serial);
        if !room(&table) {
            table.sweep(now);
        }
        // Two calls of one serial could not be told apart; no library sends them.
        let admitted = has_time && room(&table) && !table.open.contains_key(&key);
        if admitted {
            let connection = table.connection;
            table.insert(key, Open { account, size, wants_reply: call.wants_reply, since: now, connection });
        } else {
            table.log_refusal(call.sender, now);
        }
        admitted
    }

    /// There is a new connection to the bus. It may be another bus, which gives the same names to others.
    pub(super) fn begin_anew(&self) {
        self.table().begin_anew();
    }

    /// The permit of the call that is replied to.
    pub(super) fn close(&self, sender: &str, serial: u32) -> Option<Permit> {
        let key = (Box::from(sender), serial);
        let open = self.table().open.remove(&key)?;
        Some(Permit { calls: self.clone(), key, open })
    }

    pub(super) fn holds_back(&self) -> bool {
        self.0.limits.holds_back
    }

    pub(super) fn is_known(&self, sender: &str) -> bool {
        self.table().users.contains_key(sender)
    }

    /// Whether the bus is being asked which user this sender is. If it is not known, this begins to ask.
    pub(super) fn is_asking(&self, sender: &str) -> bool {
        let mut table = self.table();
        if table.users.contains_key(sender) {
            return false;
        }
        self.look_up(&mut table, sender);
        table.asked.contains(sender)
    }

    /// Waits until a sender was looked up.
    pub(super) async fn answered(&self) {
        self.0.answer.notified().await;
    }

    /// The senders that were looked up since the last time.
    pub(super) fn take_answered(&self) -> Vec<Box<str>> {
        std::mem::take(&mut self.table().answered)
    }

    /// Asks the bus which users the senders are, for as long as the service is on the bus. Senders of one
    /// user share what a user may have. A sender that is not known waits, or shares with all who are not.
    pub async fn look_up_users(&self, bus: &Connection) {
        let mut looked_up = self.0.looked_up.lock().await;
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                Some(sender) = looked_up.recv(), if asking.len() < AT_ONCE => {
                    let (calls, bus) = (self.clone(), bus.clone());
                    asking.spawn(async move { calls.ask(&bus, sender).await });
                }
                Some(_) = asking.join_next() => {}
                else => return,
            }
        }
    }

    async fn ask(&self, bus: &Connection, sender: Box<str>) {
        let asked = user_of(bus, &sender).await;
        // A sender that has left sends no more.
        let user =
            asked.inspect_err(|error| tracing::debug!("the bus does not tell who {sender} is: {error}"));
        self.is_user(sender, user.ok());
    }

    pub(super) fn is_user(&self, sender: Box<str>, user: Option<u32>) {
        self.table().is_user(sender, user, &self.0.limits.trusted);
        self.0.answer.notify_one();
    }

    fn look_up(&self, table: &mut Table, sender: &str) {
        if table.asked.contains(sender) {
            return;
        }
        // Where too many wait, the sender's next call asks again.
        if self.0.lookups.try_send(sender.into()).is_ok() {
            table.asked.insert(sender.into());
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
