//! Tests that `ExplainRules`, `Explain` and the decision on a packet agree.

use std::io::Write as _;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use wakevirt_protocol::explain::{Body, Explanation, PendingWake, PlannedAction, RuleKind, RuleVerdict};
use zbus::wire::serialized::Context;
use zbus::wire::{LE, serialized_size};

use super::*;
use crate::model::Pause;
use crate::policy::alias::Alias;

/// The maximum size of a reply, in bytes.
const MAX_REPLY: usize = 256 * 1024;

fn verdicts(explanation: &Explanation) -> Vec<&'static str> {
    explanation.rules.iter().filter_map(|rule| rule.verdict.map(RuleVerdict::as_str)).collect()
}

#[tokio::test]
async fn shows_each_rule_with_its_verdict() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut policy = policy(
        "[[allow]]\ndomain = \"other\"\n[[allow]]\nmac = \"52:55:*\"\n\
         [[allow]]\ndomain = \"vm1\"\nconnection = \"lxc:///\"\n\
         [[allow]]\ndomain = \"vm1\"\ninterfaces = [\"br1\"]\n\
         [[allow]]\ndomain = \"vm1\"\nvlans = [7]\n[[allow]]\ndomain = \"vm1\"\nsources = [\"192.0.2.1\"]\n\
         [[allow]]\ndomain = \"vm1\"\nsecure-on = \"/no/file\"\n[[allow]]\ndomain = \"vm*\"\n\
         [[allow]]\ndomain = \"vm1\"\n",
    );
    let alias = |text: &str| toml::from_str::<Alias>(text).unwrap();
    policy.aliases = vec![
        alias("mac = \"52:54:00:00:00:09\"\ndomain = \"vm1\""),
        alias("mac = \"52:54:00:00:00:08\"\ndomain = \"vm1\""),
    ];
    let engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    let details = PacketDetails { interface: Some("br0".to_owned()), ..PacketDetails::default() };
    let explained = engine.requests.explain_rules(mac(9), details).await.unwrap();
    let expected = [
        "domain",
        "mac",
        "connection",
        "interface",
        "vlan-unknown",
        "source-unknown",
        "password-missing",
        "allows",
        "allows",
        "no-opt-in",
    ];
    assert_eq!(verdicts(&explained), expected);
    let deciding: Vec<u32> =
        explained.rules.iter().filter(|rule| rule.decides).map(|rule| rule.number).collect();
    assert_eq!(deciding, [8], "the first rule that allows the packet");
    assert_eq!(explained.rules.last().unwrap().kind, Some(RuleKind::Metadata));
    assert!(explained.rules[3].reason.contains("\"br0\""), "{}", explained.rules[3].reason);
    assert_eq!(explained.aliases.iter().map(|alias| alias.applies).collect::<Vec<_>>(), [true, false]);
    let found = &explained.domains[0];
    assert!(found.selected && found.alias && found.name == "vm1" && found.state == "shut off", "{found:?}");
    assert_eq!((explained.would_wake, explained.action), (true, Some(PlannedAction::Start)));
    assert!(fake.starts().is_empty(), "ExplainRules does not wake a domain");

    let unknown = engine.requests.explain_rules(mac(7), PacketDetails::default()).await.unwrap();
    assert_eq!(unknown.outcome.as_deref(), Some("no-such-domain"));
    assert!(unknown.domains.is_empty() && !unknown.rules.iter().any(|rule| rule.decides));
    assert_eq!(verdicts(&unknown)[..2], ["no-domain", "mac"]);
}

#[tokio::test]
async fn shows_the_pending_wake_and_the_cool_down() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut policy = rules(&["vm*"]);
    policy.timing.cool_down = Duration::from_secs(3600);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.send_packet(1).await;
    fake.wait_for_starts(1).await;
    let explain = async || engine.requests.explain_rules(mac(1), PacketDetails::default()).await.unwrap();
    let during = explain().await;
    assert_eq!(
        (during.action, during.domains[0].wake),
        (Some(PlannedAction::Join), Some(PendingWake::Running))
    );
    fake.release();
    assert_eq!(engine.decisions.recv().await.unwrap().outcome, Outcome::Started);
    engine.update(Update::Domain(Domain { state: State::ShutOff, ..domain(1, &[1]) })).await;
    engine.wait_until_idle().await;
    let explained = engine.requests.explain_rules(mac(1), PacketDetails::default()).await.unwrap();
    let remaining = explained.domains[0].cool_down.unwrap();
    assert!((1..=3_600_000_000).contains(&remaining), "{remaining}");
    assert_eq!(explained.outcome.as_deref(), Some("cooling-down"));
    assert!(explained.domains[0].last_wake.is_some() && explained.domains[0].wake.is_none());
}

#[tokio::test]
async fn limits_the_size_of_the_reply() {
    let long = "x".repeat(200);
    let text: String = (0..1020).map(|number| format!("[[allow]]\ndomain = \"{long}{number}\"\n")).collect();
    // The last rule allows the packet. It is not left out.
    let mut policy = policy(&format!("{text}[[allow]]\ndomain = \"vm*\"\n"));
    let alias = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let text = format!("mac = \"52:54:00:01:{high:02x}:{low:02x}\"\ndomain = \"{long}\"");
        toml::from_str::<Alias>(&text).unwrap()
    };
    policy.aliases = (0..1024).map(alias).collect();
    let engine = start(policy);
    let fake = Fake::new(&[], &[]);
    engine.update(up(&fake, (1..=40).map(|number| domain(number, &[1])).collect())).await;
    engine.update(Update::Domain(domain(50, &[50]))).await;
    for last in [1, 50, 99] {
        let explained = engine.requests.explain_rules(mac(last), PacketDetails::default()).await.unwrap();
        assert_eq!(explained.rules.len() + usize::try_from(explained.rules_omitted).unwrap(), 1022);
        assert_eq!(explained.aliases.len() + usize::try_from(explained.aliases_omitted).unwrap(), 1024);
        assert!(explained.rules_omitted > 0 && explained.aliases_omitted > 0);
        assert_eq!(explained.domains_omitted, if last == 1 { 24 } else { 0 });
        assert!(explained.rules.iter().any(|rule| rule.number == 1022), "the metadata");
        if last == 50 {
            assert_eq!(explained.rules.iter().find(|rule| rule.decides).unwrap().number, 1021);
        }
        let body = Body::from(explained);
        let size = *serialized_size(Context::new(LE, 0), &body).unwrap();
        assert!((MAX_REPLY / 2..=MAX_REPLY).contains(&size), "{size}");
    }
}

/// The tables of a configuration with random rules.
fn random_rules() -> impl Strategy<Value = Vec<String>> {
    let key = |choices: &'static [&'static str]| select(choices).prop_map(str::to_owned);
    let rule = (
        key(&[
            "domain = \"vm1\"",
            "domain = \"vm*\"",
            "domain = \"vm2\"",
            "mac = \"52:54:*\"",
            "mac = \"02:*\"",
        ]),
        key(&["", "", "connection = \"fake:///\"", "connection = \"lxc:///\""]),
        key(&["", "", "interfaces = [\"br0\"]", "interfaces = [\"br*\", \"lan\"]"]),
        key(&["", "", "", "vlans = [0]", "vlans = [7, 8]"]),
        key(&["", "", "", "sources = [\"192.0.2.0/24\"]", "sources = [\"02:00:00:00:00:07\"]"]),
        key(&["", "", "secure-on = SECRET", "secure-on = OTHER"]),
        key(&["", "paused = \"leave\""]),
    );
    let text = rule.prop_map(|(selector, connection, interfaces, vlans, sources, secure_on, paused)| {
        [selector, connection, interfaces, vlans, sources, secure_on, paused].join("\n")
    });
    vec(text, 0..5)
}

fn random_packet() -> impl Strategy<Value = (u8, PacketDetails)> {
    let some = |text: &str| Some(text.to_owned());
    (
        1_u8..4,
        select(vec![None, some("br0"), some("br1"), some("lan")]),
        select(vec![None, Some(0), Some(7)]),
        select(vec![None, Some([192, 0, 2, 9].into()), Some([198, 51, 100, 1].into())]),
        any::<bool>(),
    )
        .prop_map(|(last, interface, vlan, source, secure_on)| {
            let details = PacketDetails { interface, vlan, source, secure_on, ..PacketDetails::default() };
            (last, details)
        })
}

/// Numbered domains with random addresses, metadata and states.
fn random_domains() -> impl Strategy<Value = Vec<Domain>> {
    let states = [
        State::ShutOff,
        State::Running,
        State::Crashed,
        State::Suspended,
        State::MigratedAway,
        State::Paused(Pause::User),
        State::Paused(Pause::IoError),
    ];
    let one = (btree_set(1_u8..4, 0..3), any::<bool>(), select(states.to_vec()));
    vec(one, 0..4).prop_map(|domains| {
        let numbered = domains.into_iter().zip(1..);
        let domain = |((macs, opt_in, state), number): ((BTreeSet<u8>, bool, State), u8)| Domain {
            opt_in,
            labels: crate::model::Labels::default(),
            state,
            ..domain(number, &macs.into_iter().collect::<Vec<_>>())
        };
        numbered.map(domain).collect()
    })
}

/// Sends a packet with the correct password, and returns its outcome.
async fn decide(engine: &mut TestEngine, last: u8, details: &PacketDetails) -> String {
    let packet = Packet { mac: mac(last), sequence: 1, details: details.clone() };
    engine.announce(packet).await;
    // The domains are known, so the packet is for an unknown address, needs its password, or gets a decision.
    engine.wait_until_idle().await;
    if engine.requests.counts().await.unwrap().unknown > 0 {
        return "no-such-domain".to_owned();
    }
    loop {
        tokio::select! {
            decision = engine.decisions.recv() => return decision.unwrap().outcome.to_string(),
            Some(fetch) = engine.fetches.recv() => fetch.reply(Ok(Password::Four([1, 2, 3, 4]))),
        }
    }
}

/// The outcomes that match the explanation.
fn expected(explained: &Explanation) -> Vec<String> {
    let success = match explained.action {
        Some(PlannedAction::Start) => "started",
        Some(PlannedAction::Resume) => "resumed",
        Some(PlannedAction::WakeUp) => "woken",
        _ => return explained.outcome.clone().into_iter().collect(),
    };
    vec![success.to_owned()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_the_decision(
        tables in random_rules(),
        (last, details) in random_packet(),
        domains in random_domains(),
        metadata: bool,
    ) {
        let file = |text: &[u8]| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text).unwrap();
            file
        };
        // The packet contains the first password; a rule with the other one does not allow it.
        let (secret, other) = (file(b"1.2.3.4"), file(b"4.3.2.1"));
        let text: String = tables.iter().map(|table| format!("[[allow]]\n{table}\n")).collect();
        let text = text.replace("SECRET", &format!("{:?}", secret.path()));
        let parsed = Rules::parse(&text.replace("OTHER", &format!("{:?}", other.path())));
        let mut rules = Rules::new(parsed.iter().cloned().collect(), if metadata { Metadata::Counts } else { Metadata::Ignored });
        rules.read_passwords().unwrap();
        let timing = Timing { cool_down: Duration::ZERO, ..Timing::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let states: Vec<_> = (1..).zip(&domains).map(|(number, domain)| (number, domain.state)).collect();
            let fake = Fake::new(&states, &[]);
            let mut engine = start(Policy { rules, timing, ..Policy::default() });
            engine.update(up(&fake, domains)).await;
            engine.wait_until_idle().await;
            let explained = engine.requests.explain_rules(mac(last), details.clone()).await.unwrap();
            let short = engine.requests.explain(mac(last), details.clone()).await.unwrap();
            prop_assert_eq!((explained.would_wake, explained.reason.clone()), short);
            prop_assert_eq!(explained.outcome.is_none(), explained.would_wake);
            // At most one rule decides, and it is the one that the verdicts select.
            let deciding: Vec<_> = explained.rules.iter().filter(|rule| rule.decides).collect();
            prop_assert!(deciding.len() <= 1);
            let first = explained.rules.iter().find(|rule| {
                matches!(rule.verdict, Some(RuleVerdict::Allows | RuleVerdict::PasswordUnchecked))
            });
            if let Some(first) = first {
                prop_assert_eq!(deciding.first().copied(), Some(first));
            }
            let needs_password = first.is_some_and(|rule| rule.verdict == Some(RuleVerdict::PasswordUnchecked));
            let outcome = decide(&mut engine, last, &details).await;
            let is_expected = expected(&explained).contains(&outcome);
            // If a rule requires a password, the decision can depend on a different rule, or on none.
            prop_assert!(is_expected || needs_password, "{outcome}: {explained:?}");
            if !explained.would_wake {
                prop_assert!(fake.starts().is_empty());
            }
            Ok(())
        })?;
    }
}
