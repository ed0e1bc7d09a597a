//! The calls in progress, counted by sender, by user and in total.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::logs::{Quota, kind};

/// The maximum age of a call: longer than any handler runs. The reply to an older call was lost.
pub(super) const MAX_AGE: Duration = Duration::from_secs(600);
/// The maximum number of senders with a known user: more than the number of connections that dbus-daemon's system bus
/// accepts by default.
pub(super) const MAX_SENDERS: usize = 4096;

/// The limits on calls in progress: for one sender, for one user, or in total.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) calls: usize,
    /// Calls with an immediate reply. A packet may have to wait behind all of them, so the limit is low.
    pub(super) quick: usize,
    /// Calls with a large reply.
    pub(super) large: usize,
    /// The total length of the calls, in multiples of the maximum length of a call.
    pub(super) bytes: usize,
}

pub(super) const PER_SENDER: Limits = Limits { calls: 32, quick: 16, large: 2, bytes: 1 };
/// These limits also apply, jointly, to all senders that have not been looked up yet.
pub(super) const PER_USER: Limits = Limits { calls: 64, quick: 32, large: 4, bytes: 2 };
pub(super) const TOTAL: Limits = Limits { calls: 256, quick: 64, large: 8, bytes: 4 };
/// The only limits for a trusted user, who may have a reason to make many calls at once. A trusted user has no time
/// budget.
pub(super) const PER_TRUSTED_USER: Limits = Limits { calls: 512, quick: 512, large: 8, bytes: 4 };

/// How far a user can exceed its time budget.
const MAX_ADVANCE: Duration = Duration::from_secs(1);

/// The user against whose limits a call counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Account {
    User(u32),
    Unknown,
}

/// The sender and the serial of a call.
pub(super) type Key = (Box<str>, u32);

/// A call in progress.
#[derive(Debug)]
pub(super) struct OpenCall {
    pub(super) account: Account,
    pub(super) cost: Cost,
    pub(super) wants_reply: bool,
    pub(super) since: Instant,
    /// The number of the connection that received it.
    pub(super) connection: u64,
}

/// The cost of a call, which counts against the limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) bytes: usize,
    pub(super) quick: bool,
    pub(super) large: bool,
    pub(super) time: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Usage {
    pub(super) calls: usize,
    pub(super) quick: usize,
    pub(super) large: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Table {
    /// The number of the current connection to the bus.
    pub(super) connection: u64,
    pub(super) open: HashMap<Key, OpenCall>,
    pub(super) senders: HashMap<Box<str>, Usage>,
    pub(super) accounts: HashMap<Account, Usage>,
    pub(super) total: Usage,
    /// The time up to which each user has used its budget.
    pub(super) used_until: HashMap<Account, Instant>,
    pub(super) users: HashMap<Box<str>, u32>,
    pub(super) lookups: HashSet<Box<str>>,
    /// Senders whose lookups have finished, until the reader takes them.
    pub(super) looked_up: Vec<Box<str>>,
    pub(super) swept_at: Option<Instant>,
    pub(super) log_quota: Quota,
}

impl Usage {
    pub(super) fn has_room(self, limit: Limits, cost: Cost, max_bytes: usize) -> bool {
        self.calls < limit.calls
            && (!cost.quick || self.quick < limit.quick)
            && (!cost.large || self.large < limit.large)
            && self.bytes.saturating_add(cost.bytes) <= max_bytes.saturating_mul(limit.bytes)
    }

    pub(super) fn add(&mut self, cost: Cost) {
        self.calls += 1;
        self.quick += usize::from(cost.quick);
        self.large += usize::from(cost.large);
        self.bytes += cost.bytes;
    }

    pub(super) fn subtract(&mut self, cost: Cost) {
        self.calls = self.calls.saturating_sub(1);
        self.quick = self.quick.saturating_sub(usize::from(cost.quick));
        self.large = self.large.saturating_sub(usize::from(cost.large));
        self.bytes = self.bytes.saturating_sub(cost.bytes);
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            connection: 0,
            open: HashMap::new(),
            senders: HashMap::new(),
            accounts: HashMap::new(),
            total: Usage::default(),
            used_until: HashMap::new(),
            users: HashMap::new(),
            lookups: HashSet::new(),
            looked_up: Vec::new(),
            swept_at: None,
            log_quota: Quota::per_minute(1),
        }
    }

    /// Removes all senders and their calls.
    pub(super) fn reset(&mut self) {
        self.connection += 1;
        self.open.clear();
        self.senders.clear();
        self.accounts.clear();
        self.total = Usage::default();
        self.users.clear();
        self.lookups.clear();
        self.looked_up.clear();
    }

    /// Records the result of a lookup. If the table is full, removes all senders except those of trusted users; if
    /// those alone fill half of it, removes all senders.
    pub(super) fn set_user(&mut self, sender: Box<str>, user: Option<u32>, trusted_uids: &[u32]) {
        if self.lookups.remove(&sender) {
            self.looked_up.push(sender.clone());
        }
        if self.users.len() >= MAX_SENDERS {
            self.users.retain(|_, user| trusted_uids.contains(user));
            if self.users.len() >= MAX_SENDERS / 2 {
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
        cost: Cost,
        max_bytes: usize,
    ) -> bool {
        let user = self.accounts.get(&account).copied().unwrap_or_default();
        if trusted {
            return user.has_room(PER_TRUSTED_USER, cost, max_bytes);
        }
        let sender = self.senders.get(sender).copied().unwrap_or_default();
        sender.has_room(PER_SENDER, cost, max_bytes)
            && user.has_room(PER_USER, cost, max_bytes)
            && self.total.has_room(TOTAL, cost, max_bytes)
    }

    pub(super) fn has_time(&self, account: Account, now: Instant) -> bool {
        let used_until = self.used_until.get(&account);
        used_until.is_none_or(|until| until.saturating_duration_since(now) <= MAX_ADVANCE)
    }

    pub(super) fn insert(&mut self, key: Key, open: OpenCall) {
        if self.used_until.len() >= MAX_SENDERS {
            self.used_until.clear();
        }
        let used_until = self.used_until.entry(open.account).or_insert(open.since);
        *used_until = (*used_until).max(open.since) + open.cost.time;
        self.senders.entry(key.0.clone()).or_default().add(open.cost);
        self.accounts.entry(open.account).or_default().add(open.cost);
        self.total.add(open.cost);
        self.open.insert(key, open);
    }

    /// Subtracts a call that was removed from `open`.
    pub(super) fn release(&mut self, sender: &str, open: &OpenCall) {
        if open.connection != self.connection {
            return;
        }
        self.total.subtract(open.cost);
        if let Some(used) = self.senders.get_mut(sender) {
            used.subtract(open.cost);
            if used.calls == 0 {
                self.senders.remove(sender);
            }
        }
        if let Some(used) = self.accounts.get_mut(&open.account) {
            used.subtract(open.cost);
            if used.calls == 0 {
                self.accounts.remove(&open.account);
            }
        }
    }

    /// Releases the calls whose replies were lost, at most once per second.
    pub(super) fn sweep(&mut self, now: Instant) {
        let age = |since: Instant| now.saturating_duration_since(since);
        if self.swept_at.is_some_and(|swept_at| age(swept_at) < Duration::from_secs(1)) {
            return;
        }
        self.swept_at = Some(now);
        let lost: Vec<_> = self.open.extract_if(|_, open| age(open.since) > MAX_AGE).collect();
        for ((sender, _), open) in lost {
            self.release(&sender, &open);
        }
    }

    pub(super) fn log_refusal(&mut self, sender: &str, now: Instant) {
        if let Some(suppressed) = self.log_quota.take(now) {
            let user = self.users.get(sender);
            let user = user.map_or_else(|| "an unknown user".to_owned(), |user| format!("user {user}"));
            tracing::warn!(
                MESSAGE_ID = kind::CALLS_REFUSED,
                WAKEVIRT_SENDER = sender,
                WAKEVIRT_SUPPRESSED = suppressed,
                "refused a method call: {user} ({sender}), or all callers together, exceeded a limit on calls"
            );
        }
    }
}
