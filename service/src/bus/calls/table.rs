//! What is under way, and whom it counts for.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::logs::Quota;

/// No handler takes longer. A permit that is older has lost its reply.
pub(super) const LONGEST: Duration = Duration::from_secs(600);
/// Senders that are known by user; the bus takes fewer connections by default.
pub(super) const SENDERS: usize = 4096;
/// What may be under way at once, of one sender, one user, or all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub(super) calls: usize,
    /// Calls that are answered at once. They need not be many, and each takes its turn before a packet.
    pub(super) quick: usize,
    /// Calls that get a large reply.
    pub(super) large: usize,
    /// In units of the longest call.
    pub(super) bytes: usize,
}

pub(super) const OF_SENDER: Most = Most { calls: 32, quick: 16, large: 2, bytes: 1 };
/// Also for all senders together that are not looked up yet.
pub(super) const OF_USER: Most = Most { calls: 64, quick: 32, large: 4, bytes: 2 };
pub(super) const OF_ALL: Most = Most { calls: 256, quick: 64, large: 8, bytes: 4 };
/// Instead of all of these: who is trusted has reasons for many calls at once, and no bound in time.
pub(super) const OF_TRUSTED: Most = Most { calls: 512, quick: 512, large: 8, bytes: 4 };

/// How much of its time a user may use ahead.
const AHEAD: Duration = Duration::from_secs(1);

/// Whom a call counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Account {
    User(u32),
    Unknown,
}

pub(super) type Key = (Box<str>, u32);

#[derive(Debug)]
pub(super) struct Open {
    pub(super) account: Account,
    pub(super) size: Size,
    pub(super) wants_reply: bool,
    pub(super) since: Instant,
    /// The connection that it came by.
    pub(super) connection: u64,
}

/// How much a call counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) bytes: usize,
    pub(super) quick: bool,
    pub(super) large: bool,
    pub(super) time: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Used {
    pub(super) calls: usize,
    pub(super) quick: usize,
    pub(super) large: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Table {
    /// Counts the connections to the bus.
    pub(super) connection: u64,
    pub(super) open: HashMap<Key, Open>,
    pub(super) senders: HashMap<Box<str>, Used>,
    pub(super) accounts: HashMap<Account, Used>,
    pub(super) all: Used,
    /// Until when each has used its time.
    pub(super) used_until: HashMap<Account, Instant>,
    pub(super) users: HashMap<Box<str>, u32>,
    pub(super) asked: HashSet<Box<str>>,
    /// Senders about whom the bus has answered, for the reader.
    pub(super) answered: Vec<Box<str>>,
    pub(super) swept: Option<Instant>,
    pub(super) lines: Quota,
}

impl Used {
    pub(super) fn has_room(self, most: Most, size: Size, longest: usize) -> bool {
        self.calls < most.calls
            && (!size.quick || self.quick < most.quick)
            && (!size.large || self.large < most.large)
            && self.bytes.saturating_add(size.bytes) <= longest.saturating_mul(most.bytes)
    }

    pub(super) fn add(&mut self, size: Size) {
        self.calls += 1;
        self.quick += usize::from(size.quick);
        self.large += usize::from(size.large);
        self.bytes += size.bytes;
    }

    pub(super) fn take(&mut self, size: Size) {
        self.calls = self.calls.saturating_sub(1);
        self.quick = self.quick.saturating_sub(usize::from(size.quick));
        self.large = self.large.saturating_sub(usize::from(size.large));
        self.bytes = self.bytes.saturating_sub(size.bytes);
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            connection: 0,
            open: HashMap::new(),
            senders: HashMap::new(),
            accounts: HashMap::new(),
            all: Used::default(),
            used_until: HashMap::new(),
            users: HashMap::new(),
            asked: HashSet::new(),
            answered: Vec::new(),
            swept: None,
            lines: Quota::per_minute(1),
        }
    }

    /// Forgets all senders, and what they have under way.
    pub(super) fn begin_anew(&mut self) {
        self.connection += 1;
        self.open.clear();
        self.senders.clear();
        self.accounts.clear();
        self.all = Used::default();
        self.users.clear();
        self.asked.clear();
        self.answered.clear();
    }

    /// The bus has answered who this sender is. Where too many are known, all but the trusted are forgotten.
    pub(super) fn is_user(&mut self, sender: Box<str>, user: Option<u32>, trusted: &[u32]) {
        if self.asked.remove(&sender) {
            self.answered.push(sender.clone());
        }
        if self.users.len() >= SENDERS {
            self.users.retain(|_, user| trusted.contains(user));
            if self.users.len() >= SENDERS / 2 {
                self.users.clear();
            }
        }
        self.users.extend(user.map(|user| (sender, user)));
    }

    pub(super) fn has_room(
        &self,
        sender: &str,
        account: Account,
        trusted: bool,
        size: Size,
        longest: usize,
    ) -> bool {
        let user = self.accounts.get(&account).copied().unwrap_or_default();
        if trusted {
            return user.has_room(OF_TRUSTED, size, longest);
        }
        let sender = self.senders.get(sender).copied().unwrap_or_default();
        sender.has_room(OF_SENDER, size, longest)
            && user.has_room(OF_USER, size, longest)
            && self.all.has_room(OF_ALL, size, longest)
    }

    pub(super) fn has_time(&self, account: Account, now: Instant) -> bool {
        let used_until = self.used_until.get(&account);
        used_until.is_none_or(|until| until.saturating_duration_since(now) <= AHEAD)
    }

    pub(super) fn insert(&mut self, key: Key, open: Open) {
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

    pub(super) fn give_back(&mut self, sender: &str, open: &Open) {
        if open.connection != self.connection {
            return;
        }
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
    pub(super) fn sweep(&mut self, now: Instant) {
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

    pub(super) fn log_refusal(&mut self, sender: &str, now: Instant) {
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
