use super::table::*;
use super::*;

const LONGEST_CALL: usize = 1000;

fn calls() -> Calls {
    Calls::new(Limits {
        longest: LONGEST_CALL,
        slow: &["Wake"],
        large: &["Replay"],
        trusted: vec![0],
        holds_back: false,
    })
}

fn call(sender: &str, serial: u32) -> Call<'_> {
    Call { sender, serial, member: "Wake", bytes: 1, wants_reply: true }
}

/// Admits calls of this sender until one is refused, and tells how many there were.
fn fill(calls: &Calls, sender: &str) -> usize {
    (1..).take_while(|serial| calls.admit(&call(sender, *serial), Instant::now())).count()
}

#[test]
fn are_bounded_for_each_sender_each_user_and_all() {
    let calls = calls();
    assert_eq!(fill(&calls, ":1.1"), OF_SENDER.calls);
    // Nobody knows yet who these are: together they have as much as one user.
    assert_eq!(fill(&calls, ":1.2"), OF_USER.calls - OF_SENDER.calls);
    assert_eq!(fill(&calls, ":1.3"), 0);
    for user in 1000..1010_u32 {
        for connection in 0..4 {
            calls.is_user(format!(":{user}.{connection}").into(), Some(user));
        }
    }
    let of_user: usize = (0..4).map(|connection| fill(&calls, &format!(":1000.{connection}"))).sum();
    assert_eq!(of_user, OF_USER.calls, "however many connections a user has");
    let of_others: usize = (1001..1010).map(|user| fill(&calls, &format!(":{user}.0"))).sum();
    assert_eq!(of_others, OF_ALL.calls - 2 * OF_USER.calls);
    // Whoever is trusted gets through all the same.
    calls.is_user(":0.1".into(), Some(0));
    assert_eq!(fill(&calls, ":0.1"), OF_TRUSTED.calls);
}

#[test]
fn are_given_back_when_the_reply_is_written() {
    let calls = calls();
    let open = fill(&calls, ":1.1");
    assert!(!calls.admit(&call(":1.1", 1000), Instant::now()));
    let permit = calls.close(":1.1", 1).unwrap();
    assert!(!calls.admit(&call(":1.1", 1000), Instant::now()), "its reply is not written yet");
    drop(permit);
    assert!(calls.admit(&call(":1.1", 1000), Instant::now()));
    assert!(calls.close(":1.1", 1).is_none(), "replied to once");
    for serial in (2..=u32::try_from(open).unwrap()).chain([1000]) {
        drop(calls.close(":1.1", serial).unwrap());
    }
    let table = calls.table();
    assert!(table.open.is_empty() && table.senders.is_empty() && table.accounts.is_empty());
    assert_eq!((table.all.calls, table.all.bytes), (0, 0));
}

#[test]
fn of_another_bus_begin_anew() {
    let calls = calls();
    calls.is_user(":1.1".into(), Some(0));
    assert_eq!(fill(&calls, ":1.1"), OF_TRUSTED.calls);
    let permit = calls.close(":1.1", 1).unwrap();
    calls.begin_anew();
    // The same name may be somebody else's now.
    assert_eq!(fill(&calls, ":1.1"), OF_SENDER.calls);
    drop(permit);
    assert!(!calls.admit(&call(":1.1", 1000), Instant::now()), "what came before gives nothing back");
}

#[test]
fn without_a_reply_count_like_others() {
    let calls = calls();
    let call = Call { wants_reply: false, ..call(":1.1", 1) };
    assert!(calls.admit(&call, Instant::now()));
    assert_eq!(fill(&calls, ":1.1"), 0, "the serial is taken");
    let permit = calls.close(":1.1", 1).unwrap();
    assert!(!permit.wants_reply());
}

#[test]
fn are_bounded_by_bytes_and_by_kind() {
    let calls = calls();
    let of = |serial, bytes| Call { bytes, ..call(":1.1", serial) };
    assert!(!calls.admit(&of(1, LONGEST_CALL + 1), Instant::now()));
    assert!(calls.admit(&of(1, LONGEST_CALL - 1), Instant::now()));
    assert!(!calls.admit(&of(2, 2), Instant::now()));
    assert!(calls.admit(&of(2, 1), Instant::now()));
    let large = |serial| Call { member: "Replay", ..call(":1.2", serial) };
    let quick = |serial| Call { member: "Get", ..call(":1.2", serial) };
    let admitted = (1..100).filter(|serial| calls.admit(&large(*serial), Instant::now())).count();
    assert_eq!(admitted, OF_SENDER.large);
    let admitted = (101..200).filter(|serial| calls.admit(&quick(*serial), Instant::now())).count();
    assert_eq!(admitted, OF_SENDER.quick - OF_SENDER.large, "a large one is quick as well");
    assert!(calls.admit(&call(":1.2", 1000), Instant::now()), "others go on");
}

#[test]
fn are_bounded_in_time() {
    let calls = calls();
    let start = Instant::now();
    for (sender, user) in [(":1.1", 1000), (":1.2", 1000), (":1.3", 1001), (":0.1", 0)] {
        calls.is_user(sender.into(), Some(user));
    }
    // Calls that end at once.
    let admits = |sender, member, now| {
        let call = Call { member, ..call(sender, 1) };
        let admitted = calls.admit(&call, now);
        drop(calls.close(sender, 1));
        admitted
    };
    let count = |sender, member, now| (0..10_000).filter(|_| admits(sender, member, now)).count();
    assert_eq!(count(":1.1", "Replay", start), 41);
    assert_eq!(count(":1.2", "Get", start), 0, "it is the same user");
    assert_eq!(count(":1.3", "Get", start), 2001, "another user has time of its own");
    assert_eq!(count(":0.1", "Get", start), 10_000, "and who is trusted as much as it likes");
    let later = start + Duration::from_secs(1);
    assert_eq!(count(":1.2", "Replay", later), 40);
}

#[test]
fn that_have_lost_their_reply_are_given_back_in_the_end() {
    let calls = calls();
    let now = Instant::now();
    fill(&calls, ":1.1");
    assert!(!calls.admit(&call(":1.1", 1000), now + LONGEST - Duration::from_secs(10)));
    assert!(calls.admit(&call(":1.1", 1000), now + LONGEST + Duration::from_secs(10)));
}

#[test]
fn forget_no_trusted_sender_for_the_sake_of_others() {
    let calls = calls();
    calls.is_user(":0.1".into(), Some(0));
    for sender in 0..2 * SENDERS {
        calls.is_user(format!(":1.{sender}").into(), Some(1000));
        assert!(calls.table().users.len() <= SENDERS);
    }
    assert_eq!(fill(&calls, ":0.1"), OF_TRUSTED.calls);
}

#[test]
fn of_senders_that_are_not_known_wait_for_the_bus() {
    let calls = calls();
    assert!(calls.is_asking(":0.1") && calls.is_asking(":0.1"), "asked once");
    assert_eq!(calls.take_answered(), []);
    calls.is_user(":0.1".into(), Some(0));
    assert_eq!(calls.take_answered(), [":0.1".into()]);
    assert!(!calls.is_asking(":0.1"), "it is known");
    for sender in 0..LOOKUPS {
        assert_eq!(calls.is_asking(&format!(":1.{sender}")), sender < LOOKUPS - 1, "the queue is full");
    }
}
