use super::table::*;
use super::*;

const MAX_CALL: usize = 1000;

fn limiter() -> CallLimiter {
    CallLimiter::new(CallLimits {
        max_bytes: MAX_CALL,
        slow: &["Wake"],
        large: &["Replay"],
        trusted_uids: vec![0],
        pause_for_lookup: false,
    })
}

fn call(sender: &str, serial: u32) -> Call<'_> {
    Call { sender, serial, member: "Wake", bytes: 1, wants_reply: true }
}

/// Sends calls from this sender until one is refused, and returns the number of admitted calls.
fn fill(limiter: &CallLimiter, sender: &str) -> usize {
    (1..).take_while(|serial| limiter.admit(&call(sender, *serial), Instant::now())).count()
}

#[test]
fn limits_each_sender_each_user_and_the_total() {
    let limiter = limiter();
    assert_eq!(fill(&limiter, ":1.1"), PER_SENDER.calls);
    // The users of these senders are unknown: they share the limit of one user.
    assert_eq!(fill(&limiter, ":1.2"), PER_USER.calls - PER_SENDER.calls);
    assert_eq!(fill(&limiter, ":1.3"), 0);
    for user in 1000..1010_u32 {
        for connection in 0..4 {
            limiter.set_user(format!(":{user}.{connection}").into(), Some(user));
        }
    }
    let first: usize = (0..4).map(|connection| fill(&limiter, &format!(":1000.{connection}"))).sum();
    assert_eq!(first, PER_USER.calls, "the number of connections makes no difference");
    let others: usize = (1001..1010).map(|user| fill(&limiter, &format!(":{user}.0"))).sum();
    assert_eq!(others, TOTAL.calls - 2 * PER_USER.calls);
    // A trusted user is admitted even then.
    limiter.set_user(":0.1".into(), Some(0));
    assert_eq!(fill(&limiter, ":0.1"), PER_TRUSTED_USER.calls);
}

#[test]
fn releases_a_call_when_its_reply_is_written() {
    let limiter = limiter();
    let open = fill(&limiter, ":1.1");
    assert!(!limiter.admit(&call(":1.1", 1000), Instant::now()));
    let permit = limiter.take_permit(":1.1", 1).unwrap();
    assert!(!limiter.admit(&call(":1.1", 1000), Instant::now()), "its reply has not been written yet");
    drop(permit);
    assert!(limiter.admit(&call(":1.1", 1000), Instant::now()));
    assert!(limiter.take_permit(":1.1", 1).is_none(), "a call has one permit");
    for serial in (2..=u32::try_from(open).unwrap()).chain([1000]) {
        drop(limiter.take_permit(":1.1", serial).unwrap());
    }
    let table = limiter.table();
    assert!(table.open.is_empty() && table.senders.is_empty() && table.accounts.is_empty());
    assert_eq!((table.total.calls, table.total.bytes), (0, 0));
}

#[test]
fn removes_all_senders_on_a_new_connection() {
    let limiter = limiter();
    limiter.set_user(":1.1".into(), Some(0));
    assert_eq!(fill(&limiter, ":1.1"), PER_TRUSTED_USER.calls);
    let permit = limiter.take_permit(":1.1", 1).unwrap();
    limiter.reset();
    // Another connection may have the same name now.
    assert_eq!(fill(&limiter, ":1.1"), PER_SENDER.calls);
    drop(permit);
    assert!(!limiter.admit(&call(":1.1", 1000), Instant::now()), "an old permit must not release a new call");
}

#[test]
fn counts_calls_without_a_reply() {
    let limiter = limiter();
    let call = Call { wants_reply: false, ..call(":1.1", 1) };
    assert!(limiter.admit(&call, Instant::now()));
    assert_eq!(fill(&limiter, ":1.1"), 0, "the serial is in use");
    let permit = limiter.take_permit(":1.1", 1).unwrap();
    assert!(!permit.wants_reply());
}

#[test]
fn limits_bytes_quick_and_large_calls() {
    let limiter = limiter();
    let of_length = |serial, bytes| Call { bytes, ..call(":1.1", serial) };
    assert!(!limiter.admit(&of_length(1, MAX_CALL + 1), Instant::now()));
    assert!(limiter.admit(&of_length(1, MAX_CALL - 1), Instant::now()));
    assert!(!limiter.admit(&of_length(2, 2), Instant::now()));
    assert!(limiter.admit(&of_length(2, 1), Instant::now()));
    let large = |serial| Call { member: "Replay", ..call(":1.2", serial) };
    let quick = |serial| Call { member: "Get", ..call(":1.2", serial) };
    let admitted = (1..100).filter(|serial| limiter.admit(&large(*serial), Instant::now())).count();
    assert_eq!(admitted, PER_SENDER.large);
    let admitted = (101..200).filter(|serial| limiter.admit(&quick(*serial), Instant::now())).count();
    assert_eq!(admitted, PER_SENDER.quick - PER_SENDER.large, "a large call is also quick");
    assert!(limiter.admit(&call(":1.2", 1000), Instant::now()), "slow calls have their own limit");
}

#[test]
fn limits_the_time_budget_of_a_user() {
    let limiter = limiter();
    let start = Instant::now();
    for (sender, user) in [(":1.1", 1000), (":1.2", 1000), (":1.3", 1001), (":0.1", 0)] {
        limiter.set_user(sender.into(), Some(user));
    }
    // Calls that end immediately.
    let admits = |sender, member, now| {
        let call = Call { member, ..call(sender, 1) };
        let admitted = limiter.admit(&call, now);
        drop(limiter.take_permit(sender, 1));
        admitted
    };
    let count = |sender, member, now| (0..10_000).filter(|_| admits(sender, member, now)).count();
    assert_eq!(count(":1.1", "Replay", start), 41);
    assert_eq!(count(":1.2", "Get", start), 0, "the same user");
    assert_eq!(count(":1.3", "Get", start), 2001, "another user has its own time budget");
    assert_eq!(count(":0.1", "Get", start), 10_000, "a trusted user has no time budget");
    let later = start + Duration::from_secs(1);
    assert_eq!(count(":1.2", "Replay", later), 40);
}

#[test]
fn releases_calls_whose_replies_were_lost() {
    let limiter = limiter();
    let now = Instant::now();
    fill(&limiter, ":1.1");
    assert!(!limiter.admit(&call(":1.1", 1000), now + MAX_AGE - Duration::from_secs(10)));
    assert!(limiter.admit(&call(":1.1", 1000), now + MAX_AGE + Duration::from_secs(10)));
}

#[test]
fn other_senders_do_not_displace_a_trusted_sender() {
    let limiter = limiter();
    limiter.set_user(":0.1".into(), Some(0));
    for sender in 0..2 * MAX_SENDERS {
        limiter.set_user(format!(":1.{sender}").into(), Some(1000));
        assert!(limiter.table().users.len() <= MAX_SENDERS);
    }
    assert_eq!(fill(&limiter, ":0.1"), PER_TRUSTED_USER.calls);
}

#[test]
fn looks_up_each_unknown_sender_once() {
    let limiter = limiter();
    assert!(limiter.awaits_lookup(":0.1") && limiter.awaits_lookup(":0.1"), "requested once");
    assert_eq!(limiter.take_looked_up(), []);
    limiter.set_user(":0.1".into(), Some(0));
    assert_eq!(limiter.take_looked_up(), [":0.1".into()]);
    assert!(!limiter.awaits_lookup(":0.1"), "the sender is known");
    for sender in 0..LOOKUP_QUEUE {
        let queued = limiter.awaits_lookup(&format!(":1.{sender}"));
        assert_eq!(queued, sender < LOOKUP_QUEUE - 1, "the queue is full");
    }
}
