use super::*;
use crate::model::Pause;

#[tokio::test]
async fn a_failed_start_of_a_running_domain_is_not_a_failure() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    engine.send_packet(1).await;
    fake.wait_for_starts(1).await;
    fake.set(1, State::Running);
    fake.release();
    assert_eq!(engine.next_decision().await, (1, Outcome::AlreadyRunning));
}

#[tokio::test]
async fn acts_on_paused_suspended_and_migrated_domains() {
    let user = State::Paused(Pause::User);
    let fake = Fake::new(&[(1, user), (2, State::Suspended), (3, State::MigratedAway)], &[]);
    let domains = vec![domain(1, &[1]), domain(2, &[2]), domain(3, &[3])];
    let mut engine = start_with(&fake, domains).await;
    for (number, outcome) in [(1, Outcome::Resumed), (2, Outcome::Woken), (3, Outcome::MigratedAway)] {
        engine.send_packet(number).await;
        assert_eq!(engine.next_decision().await, (number.into(), outcome));
    }
    assert_eq!(fake.calls(), ["resume", "wake up"]);
    fake.set(1, user);
    engine.requests.set_policy(policy("[[allow]]\ndomain = \"*\"\npaused = \"leave\"")).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::NotAllowed));
    assert_eq!(engine.call(1).await, Ok(Outcome::Resumed), "rules do not apply to calls");
}

#[tokio::test]
async fn queries_the_state_after_a_change() {
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    fake.set(1, State::MigratedAway);
    engine.update(Update::Changing(id(1))).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::MigratedAway));
    assert!(fake.starts().is_empty());
    // A wake changes the state before an event reports it.
    engine.update(Update::Domain(domain(1, &[1]))).await;
    fake.set(1, State::ShutOff);
    for outcome in [Outcome::Started, Outcome::AlreadyRunning] {
        engine.send_packet(1).await;
        assert_eq!(engine.next_decision().await, (1, outcome));
    }
    assert_eq!(fake.starts(), [uuid(1)]);
}

#[tokio::test]
async fn resumes_a_domain_that_was_saved_while_paused() {
    let fake = Fake::new(&[(1, State::Saved)], &[]);
    fake.set_state_after_start(State::Paused(Pause::Migration));
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    engine.send_packet(1).await;
    let decision = engine.decisions.recv().await.unwrap();
    assert_eq!(decision.outcome, Outcome::Started);
    assert_eq!(decision.reason, "it was shut off (saved), and paused when it was saved");
    assert_eq!(fake.calls(), ["resume"]);
}

#[tokio::test]
async fn waits_for_a_transient_state_and_decides_again() {
    let fake = Fake::new(&[(1, State::ShuttingDown), (2, State::Paused(Pause::Save))], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1]), domain(2, &[2])]).await;
    engine.send_packet(1).await;
    engine.send_packet(2).await;
    fake.wait_for_queries(2).await;
    fake.set(1, State::ShutOff);
    assert_eq!(engine.next_decision().await, (1, Outcome::Started));
    fake.set(2, State::Running);
    assert_eq!(engine.next_decision().await, (2, Outcome::AlreadyRunning));
    let mut policy = rules(&["vm*"]);
    policy.timing.shutdown_wait = Duration::from_millis(100);
    engine.requests.set_policy(policy).await;
    fake.set(1, State::ShuttingDown);
    assert_eq!(engine.call(1).await, Ok(Outcome::Failed), "it does not shut down");
}

#[tokio::test]
async fn the_cool_down_follows_a_success_and_applies_to_packets() {
    let fake = Fake::new(&[(1, State::Crashed)], &[]);
    let mut engine = start_with(&fake, vec![domain(1, &[1])]).await;
    let mut policy = rules(&["vm*"]);
    policy.timing.cool_down = Duration::from_secs(1);
    engine.requests.set_policy(policy).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Failed));
    fake.set(1, State::ShutOff);
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Started), "a failure does not start the cool-down");
    let start = Instant::now();
    fake.set(1, State::ShutOff);
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::CoolingDown));
    tokio::time::sleep_until(start + Duration::from_millis(1010)).await;
    engine.send_packet(1).await;
    assert_eq!(engine.next_decision().await, (1, Outcome::Started), "packets do not extend the cool-down");
    fake.set(1, State::ShutOff);
    assert_eq!(engine.call(1).await, Ok(Outcome::Started));
}
