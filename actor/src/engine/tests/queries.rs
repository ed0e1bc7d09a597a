use wakevirt_service::clock;

use super::*;
use crate::engine::queries::MAX_LISTED;
use crate::engine::status::PUBLISH_DELAY;

#[tokio::test]
async fn limits_messages_about_many_domains_with_one_address() {
    let fake = Fake::new(&[], &[]);
    let numbered = |number: u128| {
        let uuid = Uuid::from_u128(number);
        let id = Id { connection: URI.into(), uuid };
        Domain {
            id,
            name: format!("vm{number:04}"),
            macs: [mac(1)].into_iter().collect(),
            opt_in: false,
            labels: crate::model::Labels::default(),
            state: State::ShutOff,
            stop: Stop::Unknown,
        }
    };
    let engine = start_with(&fake, (0..2000).map(numbered).collect()).await;
    for _ in 0..1150 {
        engine.send_packet(1).await;
    }
    let counted =
        || async { engine.requests.counts().await.unwrap().outcomes.get(&Outcome::Ambiguous).copied() };
    while counted().await != Some(1150) {}
    let history = engine.requests.history(u64::MAX, usize::MAX).await.unwrap();
    assert_eq!(history.len(), 1000);
    for (_, decision) in &history {
        assert!(decision.reason.starts_with("\"vm0000\" on fake:/// and \"vm0001\" on"), "{decision}");
        assert!(decision.reason.contains(" and 1997 more match") && decision.size() < 1000, "{decision}");
    }
    let (would_wake, reason) = engine.requests.explain(mac(1), PacketDetails::default()).await.unwrap();
    assert!(!would_wake && reason.contains(" and 1997 more match") && reason.len() < 500, "{reason}");
    // The pages of the list contain each domain once.
    let mut ids: Vec<Id> = Vec::new();
    loop {
        let list = engine.requests.list(ids.last().cloned()).await.unwrap().unwrap();
        if list.is_empty() {
            break;
        }
        assert!(list.len() <= MAX_LISTED);
        ids.extend(list.into_iter().map(|listed| listed.id));
    }
    assert_eq!(ids, (0..2000).map(|number| numbered(number).id).collect::<Vec<_>>());
}

#[tokio::test]
async fn wakes_by_name_and_explains() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let engine = start_with(&fake, vec![domain(1, &[1])]).await;
    let details = PacketDetails::default();
    let (would_wake, reason) = engine.requests.explain(mac(1), details.clone()).await.unwrap();
    assert!(would_wake && reason.contains("vm*") && reason.contains("started"), "{reason}");
    let (would_wake, reason) = engine.requests.explain(mac(2), details).await.unwrap();
    assert!(!would_wake && reason.contains("fake addresses NAME"), "{reason}");
    assert!(fake.starts().is_empty(), "Explain does not wake a domain");
    let answer = engine.requests.wake(WakeTarget::Domain("vm1".to_owned()), ROOT).await.unwrap();
    assert!(matches!(answer, WakeReply::Decided(decision) if decision.outcome == Outcome::Started));
    let answer = engine.requests.wake(WakeTarget::Domain("vm2".to_owned()), ROOT).await.unwrap();
    assert!(matches!(answer, WakeReply::UnknownDomain));
}

#[tokio::test]
async fn lists_domains_with_their_last_wake() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let engine = start_with(&fake, vec![domain(1, &[1])]).await;
    let list = engine.requests.list(None).await.unwrap().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].rule.as_deref(), Some("domain = \"vm*\""));
    assert_eq!((list[0].state, list[0].last_wake), (State::ShutOff, None));
    let before = clock::realtime();
    assert_eq!(engine.call(1).await, Ok(Outcome::Started));
    let woken = engine.requests.list(None).await.unwrap().unwrap()[0].last_wake.unwrap();
    assert!((before..=clock::realtime()).contains(&woken));
}

#[tokio::test]
async fn forgets_the_last_wake_of_a_removed_domain() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[2]);
    let both = || vec![domain(1, &[1]), domain(2, &[2])];
    let mut engine = start_with(&fake, both()).await;
    assert_eq!(engine.call(1).await, Ok(Outcome::Started));
    assert_eq!(engine.next_decision().await.1, Outcome::Started);
    // One domain is removed during its wake, the other one while the hypervisor is unavailable.
    engine.send_packet(2).await;
    fake.wait_for_starts(2).await;
    engine.update(Update::Gone(id(2))).await;
    engine.wait_until_idle().await;
    fake.release();
    assert_eq!(engine.next_decision().await, (2, Outcome::Started));
    let last_wakes = async || {
        engine.wait_until_idle().await;
        let list = engine.requests.list(None).await.unwrap().unwrap();
        list.iter().map(|listed| listed.last_wake.is_some()).collect::<Vec<_>>()
    };
    engine.update(Update::Domain(domain(2, &[2]))).await;
    assert_eq!(last_wakes().await, [true, false]);
    engine.update(Update::Down(URI.into())).await;
    engine.update(up(&fake, vec![])).await;
    engine.update(up(&fake, both())).await;
    assert_eq!(last_wakes().await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn publishes_why_a_hypervisor_is_unavailable() {
    let fake = Fake::new(&[], &[]);
    let engine = start_with(&fake, vec![]).await;
    let mut status = engine.status.clone();
    let failed = || Update::Failed(URI.into(), "no\nanswer".to_owned());
    engine.update(failed()).await;
    engine.update(Update::Down(URI.into())).await;
    assert!(status.borrow_and_update().errors.is_empty(), "it was available");
    engine.update(failed()).await;
    let published = status.wait_for(|status| !status.errors.is_empty()).await.unwrap();
    assert_eq!(published.errors, [(URI.into(), "no\\nanswer".into())]);
    drop(published);
    engine.update(up(&fake, vec![])).await;
    assert!(status.wait_for(|status| status.connections[0].1).await.unwrap().errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn publishes_many_changes_at_once() {
    let fake = Fake::new(&[], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    engine.macs.changed().await.unwrap();
    assert_eq!(**engine.macs.borrow_and_update(), BTreeSet::from([mac(1)]));
    assert_eq!(
        *engine.status.borrow_and_update(),
        Status { connections: vec![(URI.into(), true)], lost_at: vec![0], errors: Vec::new(), domains: 1 }
    );
    for number in 2..10 {
        engine.updates.send(Update::Domain(domain(number, &[number]))).await.ok().unwrap();
    }
    engine.updates.send(Update::Gone(id(1))).await.ok().unwrap();
    engine.macs.changed().await.unwrap();
    assert_eq!(**engine.macs.borrow_and_update(), (2..10).map(mac).collect::<BTreeSet<_>>());
    assert_eq!(engine.status.borrow_and_update().domains, 8);
    // A change of the state alone is not published.
    engine
        .updates
        .send(Update::Domain(Domain { state: State::Running, ..domain(2, &[2]) }))
        .await
        .ok()
        .unwrap();
    tokio::time::sleep(PUBLISH_DELAY * 2).await;
    assert!(!engine.macs.has_changed().unwrap());
}
