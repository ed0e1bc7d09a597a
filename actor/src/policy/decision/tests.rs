use std::collections::BTreeSet;

use uuid::Uuid;

use super::*;
use crate::model::{Id, Pause, Stop};

const MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);

fn domain(name: &str) -> Domain {
    let uuid = Uuid::from_u128(name.len().try_into().unwrap());
    Domain {
        id: Id { connection: "test:///".into(), uuid },
        name: name.to_owned(),
        macs: [MAC].into_iter().collect(),
        opt_in: false,
        labels: crate::model::Labels::default(),
        state: State::ShutOff,
        stop: Stop::Unknown,
    }
}

fn rules(rules: &[&str]) -> Rules {
    let text: String = rules.iter().map(|rule| format!("[[allow]]\n{rule}\n")).collect();
    Rules::parse(&text)
}

/// The admission in short form: the admitted domain and the rule, or why it was not admitted.
fn short(names: &[&str], allow: &[&str], trigger: Trigger) -> String {
    let domains: Vec<Domain> = names.iter().map(|name| domain(name)).collect();
    let rules = rules(allow);
    let found = match domains.as_slice() {
        [] => Found::Nothing,
        [one] => Found::One(one),
        several => Found::Several(several.iter().collect()),
    };
    let details = PacketDetails::default();
    let requester = match trigger {
        Trigger::Packet => Requester::Packet(&details, Presented::NotFetched),
        Trigger::Call | Trigger::Autostart => Requester::Call,
    };
    shown(admit(found, &rules, MAC, requester))
}

fn shown(admission: Admission<'_>) -> String {
    match admission {
        Admission::Unknown => "unknown".to_owned(),
        Admission::Ambiguous(domains) => format!("ambiguous: {}", domains.len()),
        Admission::NotAllowed(domain) => format!("not allowed: {}", domain.name),
        Admission::ConditionsNotMet(_, rule, _) => format!("not accepted: {rule}"),
        Admission::FetchPassword(_, rule) => format!("fetch: {rule}"),
        Admission::BadPassword(_, rule) => format!("bad: {rule}"),
        Admission::Admitted(domain, Grant { rule: None, .. }) => domain.name.clone(),
        Admission::Admitted(domain, Grant { rule: Some(rule), .. }) => format!("{}: {rule}", domain.name),
    }
}

#[test]
fn admits_wakes_that_the_rules_allow() {
    use Trigger::{Call, Packet};
    let win = "domain = \"win\"";
    let linux = "domain = \"linux\"";
    let mac = "mac = \"52:54:*\"";
    for (domains, allow, trigger, admission) in [
        (&[] as &[_], &[] as &[_], Packet, "unknown"),
        (&[], &[win], Call, "unknown"),
        (&["win"], &[], Packet, "not allowed: win"),
        (&["win"], &[linux], Packet, "not allowed: win"),
        (&["win"], &[win], Packet, "win: domain = \"win\""),
        (&["win"], &[linux, mac], Packet, "win: mac = \"52:54:*\""),
        // The rules apply only to packets.
        (&["win"], &[], Call, "win"),
        (&["win"], &[win], Call, "win: domain = \"win\""),
        // A MAC address of two domains wakes neither, unless the rules name exactly one of them.
        (&["win", "linux"], &[], Packet, "ambiguous: 2"),
        (&["win", "linux"], &[], Call, "ambiguous: 2"),
        (&["win", "linux"], &[mac], Packet, "ambiguous: 2"),
        (&["win", "linux"], &[win, linux], Packet, "ambiguous: 2"),
        (&["win", "linux"], &["domain = \"*\""], Packet, "ambiguous: 2"),
        (&["win", "linux"], &[linux], Packet, "linux: domain = \"linux\""),
        (&["win", "linux"], &[linux], Call, "linux: domain = \"linux\""),
        (&["win", "linux"], &[mac, linux], Packet, "linux: mac = \"52:54:*\""),
    ] {
        assert_eq!(short(domains, allow, trigger), admission, "{domains:?} {allow:?} {trigger:?}");
    }
}

/// The admission of a packet on this interface, with this password, by these rules.
fn packet(
    allow: &Rules,
    opt_in: bool,
    interface: &str,
    password: Option<&Password>,
    fetched: bool,
) -> String {
    let domain = Domain { opt_in, ..domain("win") };
    let details = PacketDetails {
        interface: Some(interface.to_owned()),
        secure_on: password.is_some(),
        ..PacketDetails::default()
    };
    let presented = if fetched { Presented::Fetched(password) } else { Presented::NotFetched };
    shown(admit(Found::One(&domain), allow, MAC, Requester::Packet(&details, presented)))
}

/// Rules that require this password.
fn secured(allow: &[&str], password: &str) -> Rules {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), password).unwrap();
    let path = format!("secure-on = {:?}", file.path());
    let allow: Vec<String> = allow.iter().map(|rule| rule.replace("SECURE", &path)).collect();
    let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
    let mut rules = rules(&allow);
    rules.read_passwords().unwrap();
    rules
}

#[test]
fn fetches_the_password_only_if_a_rule_requires_it() {
    let correct = Password::Four([1, 2, 3, 4]);
    let wrong = Password::Four([1, 2, 3, 5]);
    let assert_starts =
        |text: String, expected: &str| assert!(text.starts_with(expected), "{text}: {expected}");
    let one = secured(&["domain = \"win\"\ninterfaces = [\"br0\"]\nSECURE"], "1.2.3.4");
    assert_starts(packet(&one, false, "br0", Some(&correct), false), "fetch");
    assert_starts(packet(&one, false, "br0", Some(&correct), true), "win: ");
    assert_starts(packet(&one, false, "br0", Some(&wrong), true), "bad");
    assert_starts(packet(&one, false, "br0", None, false), "bad");
    assert_starts(packet(&one, false, "br1", Some(&correct), false), "not accepted");
    assert_starts(packet(&rules(&["domain = \"win\""]), false, "br0", Some(&wrong), false), "win: ");
    assert_starts(packet(&rules(&[]), false, "br0", Some(&wrong), false), "not allowed");
    // Another rule, or the metadata, can allow it without a password.
    let two = secured(&["domain = \"win\"\nSECURE", "mac = \"*\"\ninterfaces = [\"br0\"]"], "1.2.3.4");
    assert_starts(packet(&two, false, "br0", None, false), "win: mac");
    assert_starts(packet(&two, false, "br0", Some(&wrong), true), "win: mac");
    assert_starts(packet(&two, false, "br1", Some(&wrong), true), "bad");
    assert_starts(packet(&one, true, "br0", None, false), "win: metadata");
    assert_starts(packet(&rules(&[]), true, "br9", None, false), "win: metadata");
}

#[test]
fn selects_the_action_for_each_state() {
    use State::*;
    let nothing = |outcome| Err(outcome);
    for (state, action) in [
        (ShutOff, Ok(Action::Start)),
        (Saved, Ok(Action::Start)),
        (Running, nothing(Outcome::AlreadyRunning)),
        (MigratedAway, nothing(Outcome::MigratedAway)),
        (Paused(Pause::User), Ok(Action::Resume)),
        (Paused(Pause::FromSnapshot), Ok(Action::Resume)),
        (Paused(Pause::Restored), Ok(Action::Resume)),
        (Paused(Pause::Unknown), Ok(Action::Resume)),
        (Paused(Pause::StartingUp), Ok(Action::AwaitPause)),
        (Paused(Pause::Save), Ok(Action::AwaitPause)),
        (Paused(Pause::Dump), Ok(Action::AwaitPause)),
        (Paused(Pause::Snapshot), Ok(Action::AwaitPause)),
        (Paused(Pause::Migration), Ok(Action::AwaitPause)),
        (Paused(Pause::PostCopy), Ok(Action::AwaitPause)),
        (Paused(Pause::IoError), nothing(Outcome::Failed)),
        (Paused(Pause::Watchdog), nothing(Outcome::Failed)),
        (Paused(Pause::Crashed), nothing(Outcome::Failed)),
        (Paused(Pause::ShuttingDown), nothing(Outcome::Failed)),
        (Paused(Pause::PostCopyFailed), nothing(Outcome::Failed)),
        (Paused(Pause::ApiError), nothing(Outcome::Failed)),
        (ShuttingDown, Ok(Action::AwaitOff)),
        (Crashed, nothing(Outcome::Failed)),
        (Suspended, Ok(Action::WakeUp)),
        (Unknown, nothing(Outcome::Failed)),
    ] {
        match (select_action(state, super::Paused::Resume), action) {
            (Action::Nothing(outcome, _), Err(expected)) => assert_eq!(outcome, expected, "{state}"),
            (action, expected) => assert_eq!(Ok(action), expected, "{state}"),
        }
    }
    let Action::Nothing(Outcome::NotAllowed, reason) =
        select_action(Paused(Pause::User), super::Paused::Leave)
    else {
        panic!("the domain must stay paused")
    };
    assert!(reason.contains("leave"), "{reason}");
    assert_eq!(select_action(ShutOff, super::Paused::Leave), Action::Start);
}

#[test]
fn outcomes_have_different_names() {
    let names: BTreeSet<&str> = Outcome::ALL.into_iter().map(Outcome::as_str).collect();
    assert_eq!(names.len(), Outcome::ALL.len());
}

proptest::proptest! {
    /// Rules only add permissions: a packet that some rules allow is also allowed by more rules.
    #[test]
    fn more_rules_never_allow_less(
        interfaces in proptest::collection::vec("br[0-3]", 0..4),
        interface in "br[0-3]",
        opt_in: bool,
    ) {
        let allow: Vec<String> =
            interfaces.iter().map(|it| format!("domain = \"win\"\ninterfaces = [{it:?}]")).collect();
        let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
        let allowed = |rules: &[&str]| packet(&self::rules(rules), opt_in, &interface, None, false).starts_with("win: ");
        let whole = allowed(&allow);
        proptest::prop_assert_eq!(whole, opt_in || interfaces.contains(&interface));
        for (number, _) in allow.iter().enumerate() {
            let mut fewer = allow.clone();
            fewer.remove(number);
            proptest::prop_assert!(whole || !allowed(&fewer));
        }
    }

    /// The cool-down applies only to packets, only after a success, and for a limited time.
    #[test]
    fn the_cool_down_ends(since in proptest::option::of(0_u64..20_000), cool_down in 0_u64..10_000) {
        let (since, cool_down) = (since.map(Duration::from_millis), Duration::from_millis(cool_down));
        proptest::prop_assert!(!is_cooling_down(Trigger::Call, since, cool_down));
        proptest::prop_assert_eq!(
            is_cooling_down(Trigger::Packet, since, cool_down),
            since.is_some_and(|since| since < cool_down)
        );
    }
}
