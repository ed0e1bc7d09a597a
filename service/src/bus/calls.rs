//! Admission of method calls: how many, and how many bytes, each sender, each user and all callers
//! together may have under way. A call is admitted before anything is done for it; its permit ends when
//! its reply is written. A call without a reply counts like any other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use zbus::Connection;

use crate::logs::Quota;

/// No handler takes longer. A permit that is older has lost its reply.
const LONGEST: Duration = Duration::from_secs(600);
/// Senders that are known by user; the bus takes fewer connections by default.
const SENDERS: usize = 4096;
/// Senders that are waiting to be looked up.
const LOOKUPS: usize = 64;

/// What may be under way at once, of one sender, one user, or all.
#[derive(Debug, Clone, Copy)]
struct Most {
    calls: usize,
    /// Calls that are answered at once. They need not be many, and each takes its turn before a packet.
    quick: usize,
    /// Calls that get a large reply.
    large: usize,
    /// In units of the longest call.
    bytes: usize,
}

const OF_SENDER: Most = Most { calls: 32, quick: 8, large: 2, bytes: 1 };
/// Also for all senders together that are not looked up yet.
const OF_USER: Most = Most { calls: 64, quick: 16, large: 4, bytes: 2 };
const OF_ALL: Most = Most { calls: 256, quick: 32, large: 8, bytes: 4 };

/// What a call of each kind counts in time. A user has a second of it in each second: what the bus still holds of
/// a flood is soon read, and those who come behind it soon have their turn.
const QUICK: Duration = Duration::from_micros(500);
const SLOW: Duration = Duration::from_millis(5);
const LARGE: Duration = Duration::from_millis(25);
/// How much of it may be used ahead.
const AHEAD: Duration = Duration::from_secs(1);

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
}

/// Whom a call counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Account {
    User(u32),
    Unknown,
}

type Key = (Box<str>, u32);

#[derive(Debug)]
struct Open {
    account: Account,
    size: Size,
    wants_reply: bool,
    since: Instant,
}

/// How much a call counts.
#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: usize,
    quick: bool,
    large: bool,
    time: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
struct Used {
    calls: usize,
    quick: usize,
    large: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Table {
    open: HashMap<Key, Open>,
    senders: HashMap<Box<str>, Used>,
    accounts: HashMap<Account, Used>,
    all: Used,
    /// Until when each has used its time.
    used_until: HashMap<Account, Instant>,
    users: HashMap<Box<str>, u32>,
    asked: HashSet<Box<str>>,
    swept: Option<Instant>,
    lines: Quota,
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

impl Used {
    fn has_room(self, most: Most, size: Size, longest: usize) -> bool {
        self.calls < most.calls
            && (!size.quick || self.quick < most.quick)
            && (!size.large || self.large < most.large)
            && self.bytes.saturating_add(size.bytes) <= longest.saturating_mul(most.bytes)
    }

    fn add(&mut self, size: Size) {
        self.calls += 1;
        self.quick += usize::from(size.quick);
        self.large += usize::from(size.large);
        self.bytes += size.bytes;
    }

    fn take(&mut self, size: Size) {
        self.calls = self.calls.saturating_sub(1);
        self.quick = self.quick.saturating_sub(usize::from(size.quick));
        self.large = self.large.saturating_sub(usize::from(size.large));
        self.bytes = self.bytes.saturating_sub(size.bytes);
    }
}

impl Calls {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (lookups, looked_up) = mpsc::channel(LOOKUPS);
        let table = Mutex::new(Table {
            open: HashMap::new(),
            senders: HashMap::new(),
            accounts: HashMap::new(),
            all: Used::default(),
            used_until: HashMap::new(),
            users: HashMap::new(),
            asked: HashSet::new(),
            swept: None,
            lines: Quota::new(1, Duration::from_secs(60)),
        });
        Self(Arc::new(Shared { limits, table, lookups, looked_up: AsyncMutex::new(looked_up) }))
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
            table.insert(key, Open { account, size, wants_reply: call.wants_reply, since: now });
        } else {
            table.log_refusal(call.sender, now);
        }
        admitted
    }

    /// The permit of the call that is replied to.
    pub(super) fn close(&self, sender: &str, serial: u32) -> Option<Permit> {
        let key = (Box::from(sender), serial);
        let open = self.table().open.remove(&key)?;
        Some(Permit { calls: self.clone(), key, open })
    }

    /// Asks the bus which users the senders are, for as long as the service is on the bus: senders of one
    /// user share what a user may have, and who is not known yet shares with all who are not.
    pub async fn look_up_users(&self, bus: &Connection) {
        let mut looked_up = self.0.looked_up.lock().await;
        while let Some(sender) = looked_up.recv().await {
            let asked = user_of(bus, &sender).await;
            // A sender that has left sends no more.
            let user =
                asked.inspect_err(|error| tracing::debug!("the bus does not tell who {sender} is: {error}"));
            self.is_user(sender, user.ok());
        }
    }

    fn is_user(&self, sender: Box<str>, user: Option<u32>) {
        let mut table = self.table();
        table.asked.remove(&sender);
        if table.users.len() >= SENDERS {
            table.users.clear();
        }
        table.users.extend(user.map(|user| (sender, user)));
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

impl Table {
    fn has_room(&self, sender: &str, account: Account, trusted: bool, size: Size, longest: usize) -> bool {
        let sender = self.senders.get(sender).copied().unwrap_or_default();
        let user = self.accounts.get(&account).copied().unwrap_or_default();
        sender.has_room(OF_SENDER, size, longest)
            && user.has_room(OF_USER, size, longest)
            && (trusted || self.all.has_room(OF_ALL, size, longest))
    }

    fn has_time(&self, account: Account, now: Instant) -> bool {
        let used_until = self.used_until.get(&account);
        used_until.is_none_or(|until| until.saturating_duration_since(now) <= AHEAD)
    }

    fn insert(&mut self, key: Key, open: Open) {
        if self.used_until.len() >= SENDERS {
            self.used_until.clear();
        }
        let used_until = self.used_until.entry(open.account).or_insert(open.since);
        *used_until = (*used_until).max(open.since) + open.size.time;
        self.senders.entry(key.0.clone()).or_default().add(open.size);
        self.accounts.entry(open.account).or_default().add(open.size);
        self.all.add(open.size);
        self.open.insert(key, open);
    }

    fn give_back(&mut self, sender: &str, open: &Open) {
        self.all.take(open.size);
        if let Some(used) = self.senders.get_mut(sender) {
            used.take(open.size);
            if used.calls == 0 {
                self.senders.remove(sender);
            }
        }
        if let Some(used) = self.accounts.get_mut(&open.account) {
            used.take(open.size);
            if used.calls == 0 {
                self.accounts.remove(&open.account);
            }
        }
    }

    /// Gives back what has lost its reply, at most once a second.
    fn sweep(&mut self, now: Instant) {
        let age = |since: Instant| now.saturating_duration_since(since);
        if self.swept.is_some_and(|swept| age(swept) < Duration::from_secs(1)) {
            return;
        }
        self.swept = Some(now);
        let lost: Vec<_> = self.open.extract_if(|_, open| age(open.since) > LONGEST).collect();
        for ((sender, _), open) in lost {
            self.give_back(&sender, &open);
        }
    }

    fn log_refusal(&mut self, sender: &str, now: Instant) {
        if let Some(held_back) = self.lines.take(now) {
            let user = self.users.get(sender);
            let user = user.map_or_else(|| "an unknown user".to_owned(), |user| format!("user {user}"));
            tracing::warn!(
                held_back,
                "refused a method call: {user} ({sender}) or all callers together have too many"
            );
        }
    }
}

#[cfg(test)]
mod tests;
