use wakevirt_service::clock;

use super::*;
use crate::engine::attempt::{WakeResult, wake};
use crate::hypervisor::Terms;
use crate::model::{Called, Trigger};
use crate::policy::rules::Handling;

/// While a domain shuts down, the wake waits for the domain and not for the hypervisor. That time does not count towards
/// `hold`.
#[tokio::test]
async fn reports_how_long_the_hypervisor_was_available() {
    let fake = Fake::new(&[(1, State::ShuttingDown)], &[]);
    let request = AttemptRequest {
        uuid: uuid(1),
        terms: Terms { trigger: Trigger::Packet, handling: Handling::default(), cool_down: None },
        shutdown_wait: Duration::from_secs(3600),
        start_wait: Duration::from_secs(3600),
        called: Called::No,
        known_off: false,
        expired: false,
    };
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(FakeConnection(Arc::clone(&fake)));
    let wake = tokio::spawn(wake(hypervisor, request));
    let begin = Instant::now();
    fake.wait_for_queries(1).await;
    let first = begin.elapsed();
    fake.wait_for_queries(4).await;
    let replied = begin.elapsed().checked_sub(first).unwrap();
    fake.disconnect();
    let WakeResult::Lost { called: false, available } = wake.await.unwrap() else {
        panic!("the connection was not lost")
    };
    assert!(available >= replied, "{available:?}, but the hypervisor replied for {replied:?}");
}

#[tokio::test]
async fn retains_domains_while_the_hypervisor_is_unavailable() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    engine.update(Update::Down(URI.into())).await;
    engine.send_packet(1).await;
    assert_eq!(engine.call(2).await, Err("unavailable"), "the unavailable hypervisor may have such a domain");
    let list = engine.requests.list(None).await.unwrap().unwrap();
    assert_eq!((list.len(), list[0].state), (1, State::Unknown));
    engine.update(up(&fake, vec![])).await;
    assert_eq!(
        engine.next_decision().await,
        (1, Outcome::Failed),
        "the domain was undefined in the meantime"
    );
    assert_eq!(engine.call(1).await, Err("unknown"));
}

#[tokio::test]
async fn holds_a_wake_until_the_hypervisor_is_available() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    engine.update(Update::Down(URI.into())).await;
    engine.send_packet(1).await;
    engine.send_packet(1).await;
    engine.wait_until_idle().await;
    let reconnect = async {
        // The reply shows that the previous call was received.
        engine.requests.counts().await.unwrap();
        engine.update(up(&fake, vec![domain(1, &[1])])).await;
    };
    assert_eq!(tokio::join!(engine.call(1), reconnect).0, Ok(Outcome::Started));
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(1)]);
}

/// Without virtnetworkd, libvirt does not start a domain with a virtual network. The caller and later packets join the
/// wake.
#[tokio::test]
async fn tries_again_until_a_daemon_runs() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    fake.set_unready(true);
    engine.send_packet(1).await;
    fake.wait_for_starts(2).await;
    engine.send_packet(1).await;
    fake.set_unready(false);
    assert_eq!(engine.call(1).await, Ok(Outcome::Started));
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(1); 3]);
}

/// The connection can be lost, or the actor can lose its hypervisor, while the wake waits for the daemon.
#[tokio::test]
async fn a_wake_that_waits_for_a_daemon_expires_or_is_held() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    fake.set_unready(true);
    let mut policy = rules(&["vm*"]);
    policy.timing.hold = Duration::from_millis(50);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Expired));
    let starts = fake.starts().len();
    assert!(starts > 0);

    let mut engine = start_with(&fake, vec![domain(2, &[2])]).await;
    engine.send_packet(2).await;
    fake.wait_for_starts(starts + 1).await;
    fake.disconnect();
    engine.update(Update::Down(URI.into())).await;
    let later = Fake::new(&[(2, State::ShutOff)], &[]);
    engine.update(up(&later, vec![domain(2, &[2])])).await;
    assert_eq!(engine.next_decision().await, (2, Outcome::Started));
    assert_eq!(later.starts(), [uuid(2)]);
}

/// A later packet with more permissions waits for the same daemon for longer.
#[tokio::test]
async fn an_expired_wake_does_not_end_the_one_that_joined_it() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    fake.set_unready(true);
    let narrow = "[[allow]]\ndomain = \"*\"\ninterfaces = [\"eth0\"]\npaused = \"leave\"\n";
    let mut policy = policy(&format!("{narrow}[[allow]]\ndomain = \"*\""));
    policy.timing.hold = Duration::from_secs(60);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    // It expires in a second. The next attempt is later.
    let boottime = clock::boottime().checked_sub(59_000_000);
    let details = PacketDetails { interface: Some("eth0".to_owned()), boottime, ..PacketDetails::default() };
    engine.announce(Packet { mac: mac(1), sequence: 1, details }).await;
    fake.wait_for_starts(1).await;
    engine.send_packet_on("br0", 1).await;
    engine.wait_until_idle().await;
    let expired = engine.decisions.recv().await.unwrap();
    assert_eq!(expired.outcome, Outcome::Expired);
    assert!(expired.reason.contains("virtnetworkd"), "{}", expired.reason);
    fake.set_unready(false);
    let later = tokio::time::timeout(Duration::from_secs(60), engine.next_decision()).await;
    assert_eq!(later.expect("the later wake continues").1, Outcome::Started);
}

#[tokio::test]
async fn holds_a_packet_until_the_domains_are_known() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start(rules(&["vm*"]));
    engine.send_packet(9).await;
    engine.send_packet(1).await;
    assert_eq!(
        engine.requests.counts().await.unwrap().unknown,
        0,
        "each may be for a domain of the hypervisor"
    );
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
    assert_eq!(engine.requests.counts().await.unwrap().unknown, 1);
}

/// The address may be that of a domain: it is not reported as unknown.
#[tokio::test]
async fn a_held_packet_expires() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut policy = rules(&["vm*"]);
    policy.timing.hold = Duration::from_millis(50);
    let mut engine = start(policy);
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Expired));
    let details = PacketDetails { boottime: Some(1), ..PacketDetails::default() };
    engine.announce(Packet { mac: mac(1), sequence: 2, details: details.clone() }).await;
    let decision = engine.decisions.recv().await.unwrap();
    assert_eq!((decision.outcome, decision.domain()), (Outcome::Expired, None));
    assert!(decision.reason.ends_with("unavailable: fake:///"), "{}", decision.reason);
    assert_eq!(engine.requests.counts().await.unwrap().unknown, 0);
    // When all domains are known, the address is unknown.
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.announce(Packet { mac: mac(3), sequence: 3, details }).await;
    engine.wait_until_idle().await;
    assert_eq!(engine.requests.counts().await.unwrap().unknown, 1);
    assert!(fake.starts().is_empty());
}

#[tokio::test]
async fn a_held_wake_expires() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut policy = rules(&["vm*"]);
    policy.timing.hold = Duration::from_millis(50);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.update(Update::Down(URI.into())).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Expired));
    // A packet that was announced long ago expires as well.
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    let details = PacketDetails { boottime: Some(1), ..PacketDetails::default() };
    engine.announce(Packet { mac: mac(1), sequence: 2, details }).await;
    assert_eq!(engine.next_decision().await, (2, Outcome::Expired));
    assert!(fake.starts().is_empty());
}

#[tokio::test]
async fn a_later_packet_extends_the_hold() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut policy = rules(&["vm*"]);
    policy.timing.hold = Duration::from_secs(60);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.update(Update::Down(URI.into())).await;
    // The first packet expires in a second.
    let early = clock::boottime().saturating_sub(59_000_000);
    let details = PacketDetails { boottime: Some(early), ..PacketDetails::default() };
    engine.announce(Packet { mac: mac(1), sequence: 1, details }).await;
    engine.send_packet(1).await;
    engine.wait_until_idle().await;
    while clock::boottime() < early + 60_000_000 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
}

#[tokio::test]
async fn decides_based_on_the_state_after_a_lost_connection() {
    for started in [true, false] {
        let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
        let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
        engine.send_packet(1).await;
        fake.wait_for_starts(1).await;
        fake.disconnect();
        engine.update(Update::Down(URI.into())).await;
        fake.release();
        let state = if started { State::Running } else { State::ShutOff };
        let reconnected = Fake::new(&[(1, state)], &[]);
        engine.wait_until_idle().await;
        engine.update(up(&reconnected, vec![domain(1, &[1])])).await;
        assert_eq!(engine.next_decision().await, (1, Outcome::Started));
        assert_eq!(reconnected.starts().is_empty(), started, "the decision depends on the state");
    }
}

#[tokio::test]
async fn counts_dropped_packets_as_lost() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start(rules(&["vm*"]));
    for sequence in 1..=300 {
        engine.announce(Packet { mac: mac(1), sequence, details: PacketDetails::default() }).await;
    }
    // 256 packets are held.
    while engine.lost.count() < 44 {
        tokio::task::yield_now().await;
    }
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(engine.next_decision().await, (45, Outcome::Started), "the newest packets are held");
    assert_eq!(engine.lost.count(), 44);
}

#[tokio::test]
async fn a_wake_with_a_lost_reply_does_not_expire_before_the_state_is_known() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut policy = rules(&["vm*"]);
    policy.timing.hold = Duration::from_millis(50);
    let mut engine = start(policy);
    engine.update(up(&fake, vec![domain(1, &[1])])).await;
    engine.send_packet(1).await;
    fake.wait_for_starts(1).await;
    fake.disconnect();
    engine.update(Update::Down(URI.into())).await;
    fake.release();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(engine.decisions.try_recv().is_err(), "the outcome is not known yet");
    let reconnected = Fake::new(&[(1, State::Running)], &[]);
    engine.update(up(&reconnected, vec![domain(1, &[1])])).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
}
