use super::*;
use crate::model::Pause;

/// A policy that starts these domains after a boot, and allows packets to wake any domain.
fn autostart(names: &[&str]) -> Policy {
    Policy { autostart: names.iter().map(|name| (*name).to_owned()).collect(), ..rules(&["vm*"]) }
}

fn domains() -> Vec<Domain> {
    vec![domain(1, &[1]), domain(2, &[2]), domain(3, &[3])]
}

/// The outcomes of the next decisions, by the name of the domain.
async fn outcomes(engine: &mut TestEngine, count: usize) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    for _ in 0..count {
        let decision = engine.decisions.recv().await.unwrap();
        assert_eq!(decision.subject.trigger().as_str(), "autostart");
        outcomes.push((decision.domain().unwrap().to_owned(), decision.outcome));
    }
    outcomes.sort_by(|one, other| one.0.cmp(&other.0));
    outcomes
}

#[tokio::test]
async fn starts_the_named_domains_once_after_a_boot() {
    let directory = tempfile::tempdir().unwrap();
    let open = || StateFile::open_in(directory.path());
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::Paused(Pause::User)), (3, State::ShutOff)], &[]);
    let uuid_of_2 = uuid(2).to_string();
    // One name is that of no domain, and one is not a glob.
    let policy = autostart(&["vm1", &uuid_of_2, "missing", "vm*"]);
    let (file, state) = open();
    let mut first = start_with_state(policy.clone(), file, state);
    first.update(up(&fake, domains())).await;
    let expected = [("vm1".to_owned(), Outcome::Started), ("vm2".to_owned(), Outcome::Resumed)];
    assert_eq!(outcomes(&mut first, 2).await, expected);
    assert_eq!(fake.starts(), [uuid(1)]);

    // A user shuts a domain down. It stays off when the hypervisor and the service are restarted.
    fake.set(1, State::ShutOff);
    first.update(Update::Down(URI.into())).await;
    first.update(up(&fake, domains())).await;
    first.wait_until_idle().await;
    first.requests.save_state().await;
    let (file, state) = open();
    assert_eq!(state.autostarted, [URI]);
    let mut second = start_with_state(policy.clone(), file, state);
    second.update(up(&fake, domains())).await;
    second.send_packet(3).await;
    assert_eq!(second.next_decision().await, (3, Outcome::Started), "nothing was started before");
    assert_eq!(fake.starts(), [uuid(1), uuid(3)]);

    // The directory is empty after the next boot.
    let directory = tempfile::tempdir().unwrap();
    let (file, state) = StateFile::open_in(directory.path());
    let mut booted = start_with_state(policy, file, state);
    booted.update(up(&fake, domains())).await;
    let expected = [("vm1".to_owned(), Outcome::Started), ("vm2".to_owned(), Outcome::AlreadyRunning)];
    assert_eq!(outcomes(&mut booted, 2).await, expected);
}

#[tokio::test]
async fn continues_an_autostart_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let open = || StateFile::open_in(directory.path());
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let (file, state) = open();
    let first = start_with_state(autostart(&["vm1"]), file, state);
    first.update(up(&fake, domains())).await;
    fake.wait_for_starts(1).await;
    first.wait_until_idle().await;
    // The process crashes here, before the domain has started.
    let (file, state) = open();
    let mut second = start_with_state(autostart(&["vm1"]), file, state);
    let reconnected = Fake::new(&[(1, State::ShutOff)], &[]);
    second.update(up(&reconnected, domains())).await;
    assert_eq!(outcomes(&mut second, 1).await, [("vm1".to_owned(), Outcome::Started)]);
    second.wait_until_idle().await;
    assert!(second.decisions.try_recv().is_err(), "it is started once");
    fake.release();
}

#[tokio::test]
async fn starts_nothing_without_a_state_file_or_after_its_content_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state"), "damaged").unwrap();
    for (file, state) in [Default::default(), StateFile::open_in(directory.path())] {
        let fake = Fake::new(&[(1, State::ShutOff)], &[]);
        let mut engine = start_with_state(autostart(&["vm1"]), file, state);
        engine.update(up(&fake, domains())).await;
        engine.send_packet(2).await;
        assert_eq!(engine.next_decision().await, (2, Outcome::Started));
        assert_eq!(fake.starts(), [uuid(2)]);
    }
}
