use super::*;
use crate::model::Pause;

#[tokio::test]
async fn joins_two_wakes_of_one_domain() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut engine = start_with(&fake, vec![domain(1, &[1, 2])]).await;
    engine.send_packet(1).await;
    fake.wait_for_starts(1).await;
    engine.send_packet(2).await;
    let call = engine.call(1);
    let release = async {
        // The reply shows that the previous call was received.
        engine.requests.counts().await.unwrap();
        fake.release();
    };
    assert_eq!(tokio::join!(call, release).0, Ok(Outcome::Started), "the caller shares the packet's wake");
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(1)]);
    // The next packet causes another wake.
    engine.send_packet(2).await;
    assert_eq!(engine.next_decision().await, (2, Outcome::AlreadyRunning));
}

#[tokio::test]
async fn a_slow_start_does_not_delay_another_domain() {
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[1]);
    let mut engine = start_with(&fake, vec![domain(1, &[1]), domain(2, &[2])]).await;
    engine.send_packet(1).await;
    engine.send_packet(2).await;
    assert_eq!(engine.next_decision().await, (2, Outcome::Started));
    fake.release();
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
}

#[tokio::test]
async fn a_denied_copy_does_not_suppress_an_allowed_one() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    engine.requests.set_policy(policy("[[allow]]\ndomain = \"*\"\ninterfaces = [\"br0\"]")).await;
    engine.send_packet_on("eth0", 1).await;
    engine.send_packet_on("br0", 1).await;
    engine.send_packet_on("eth0", 1).await;
    let mut outcomes =
        [engine.next_decision().await.1, engine.next_decision().await.1, engine.next_decision().await.1];
    outcomes.sort_by_key(|outcome| outcome.as_str());
    assert_eq!(outcomes, [Outcome::NotAllowed, Outcome::NotAllowed, Outcome::Started]);
    let history = engine.requests.history(u64::MAX, 2).await.unwrap();
    assert_eq!(history.len(), 2);
    let counts = engine.requests.counts().await.unwrap();
    assert_eq!(counts.outcomes, HashMap::from([(Outcome::NotAllowed, 2), (Outcome::Started, 1)]));
}

#[tokio::test]
async fn a_copy_with_more_permissions_is_not_suppressed() {
    let fake = Fake::new(&[(1, State::Paused(Pause::Save))], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    let narrow = "[[allow]]\ndomain = \"*\"\ninterfaces = [\"eth0\"]\npaused = \"leave\"\n";
    engine.requests.set_policy(policy(&format!("{narrow}[[allow]]\ndomain = \"*\""))).await;
    engine.send_packet_on("eth0", 1).await;
    engine.send_packet_on("br0", 1).await;
    engine.wait_until_idle().await;
    fake.wait_for_queries(1).await;
    fake.set(1, State::Paused(Pause::User));
    assert_eq!(engine.next_decision().await, (1, Outcome::NotAllowed));
    assert_eq!(engine.next_decision().await, (1, Outcome::Resumed));
}
