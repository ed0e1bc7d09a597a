use super::*;
use crate::engine::state_file::SavedWake;
use crate::model::{Called, Pause, Subject};
use crate::policy::rules::Handling;

#[tokio::test]
async fn continues_a_wake_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || StateFile::open_in(directory.path());
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[1]);
    let (file, state) = open();
    let mut first = start_with_state(rules(&["vm*"]), file, state);
    first.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    first.send_packet(2).await;
    assert_eq!(first.next_decision().await, (2, Outcome::Started));
    first.send_packet(1).await;
    fake.wait_for_starts(2).await;
    // The process crashes here, before the domain has started.
    let (file, state) = open();
    assert_eq!(state.wakes.len(), 1, "it was saved before the hypervisor was called");
    assert_eq!(state.position.sequence, 1);
    let reconnected = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    let mut second = start_with_state(rules(&["vm*"]), file, state);
    second.update(up(&reconnected, vec![domain(1, &[1]), domain(2, &[2])])).await;
    assert_eq!(second.next_decision().await, (1, Outcome::Started));
    let _ = second.requests.counts().await.unwrap();
    assert_eq!(reconnected.starts(), [uuid(1)], "the wake that ended is not repeated");
    assert!(open().1.wakes.is_empty());
    fake.release();
}

/// Packets for unknown addresses change nothing but the position, and are not handled again after a restart.
#[tokio::test]
async fn saves_the_position_of_packets_for_unknown_addresses() {
    for is_clean in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (file, state) = StateFile::open_in(directory.path());
        let engine = start_with_state(rules(&["vm*"]), file, state);
        engine.update(up(&Fake::new(&[], &[]), vec![domain(1, &[1])])).await;
        engine.send_packet(7).await;
        engine.wait_until_idle().await;
        if is_clean {
            engine.requests.save_state().await;
            assert_eq!(StateFile::read_saved(directory.path()).position.sequence, 7);
        }
        let saved = async {
            while StateFile::read_saved(directory.path()).position.sequence < 7 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), saved).await.expect("the position is saved");
    }
}

/// Otherwise the file would contain an old state until the next packet.
#[tokio::test]
async fn repeats_a_save_that_failed() {
    for fails_at_start in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (path, new) = (directory.path().join("state"), directory.path().join("state.new"));
        // A directory in place of the new file: not even root can replace it.
        let block = || std::fs::create_dir_all(new.join("in-the-way")).unwrap();
        if fails_at_start {
            block();
        }
        let (file, state) = StateFile::open_in(directory.path());
        let engine = start_with_state(rules(&["vm*"]), file, state);
        if !fails_at_start {
            std::fs::remove_file(&path).unwrap();
            block();
        }
        engine.update(up(&Fake::new(&[], &[]), vec![domain(1, &[1])])).await;
        engine.send_packet(7).await;
        engine.wait_until_idle().await;
        engine.requests.save_state().await;
        assert!(!path.exists(), "it cannot be saved");
        std::fs::remove_dir_all(&new).unwrap();
        let saved = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), saved).await.expect("the state is saved");
        let saved = StateFile::read_saved(directory.path());
        assert_eq!((saved.position.sequence, saved.not_before > 0), (7, fails_at_start));
    }
}

#[tokio::test]
async fn gives_up_a_wake_that_was_pending_during_two_crashes() {
    let directory = tempfile::tempdir().unwrap();
    let (file, state) = StateFile::open_in(directory.path());
    let first = start_with_state(rules(&["vm*"]), file, state);
    let fake = Fake::new(&[(1, State::ShutOff), (2, State::ShutOff)], &[]);
    first.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    first.update(Update::Down(URI.into())).await;
    first.send_packet(1).await;
    // The reply comes after the packet was received and saved.
    while StateFile::read_saved(directory.path()).wakes.is_empty() {
        let _ = first.requests.counts().await;
    }
    drop(StateFile::open_in(directory.path()));
    let (file, state) = StateFile::open_in(directory.path());
    assert_eq!((state.wakes.len(), state.abandoned.len()), (0, 1));
    let mut third = start_with_state(rules(&["vm*"]), file, state);
    assert_eq!(third.next_decision().await, (1, Outcome::Failed));
    let history = third.requests.history(u64::MAX, 10).await.unwrap();
    assert!(history[0].1.reason.contains("crashed twice"), "{history:?}");
    third.update(up(&fake, vec![domain(1, &[1]), domain(2, &[2])])).await;
    third.send_packet(2).await;
    assert_eq!(third.next_decision().await, (2, Outcome::Started));
    assert_eq!(fake.starts(), [uuid(2)], "the other wake is not tried again");
}

#[tokio::test]
async fn restores_held_packets_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (file, state) = StateFile::open_in(directory.path());
    let first = start_with_state(rules(&["vm*"]), file, state);
    first.send_packet(1).await;
    first.wait_until_idle().await;
    let (file, state) = StateFile::open_in(directory.path());
    assert_eq!(state.packets.len(), 1);
    let mut second = start_with_state(rules(&["vm*"]), file, state);
    let fake = Fake::new(&[(1, State::ShutOff)], &[]);
    second.update(up(&fake, vec![domain(1, &[1])])).await;
    assert_eq!(second.next_decision().await, (1, Outcome::Started));
}

/// The packets that were waiting for their passwords are saved as well, so there can be more than the maximum.
#[tokio::test]
async fn counts_saved_packets_for_which_there_is_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let packet = |sequence| Packet { mac: mac(1), sequence, details: PacketDetails::default() };
    let (mut file, _) = StateFile::open_in(directory.path());
    file.save(&SavedState { packets: (1..=300).map(packet).collect(), ..SavedState::default() });
    let (file, state) = StateFile::open_in(directory.path());
    let mut engine = start_with_state(rules(&["vm*"]), file, state);
    assert_eq!(engine.lost.count(), 44);
    engine.wait_until_idle().await;
    let saved = StateFile::read_saved(directory.path()).packets;
    assert_eq!((saved.len(), saved[0].sequence), (256, 45), "another process does not count them again");
    engine.update(up(&Fake::new(&[(1, State::ShutOff)], &[]), vec![domain(1, &[1])])).await;
    assert_eq!(engine.next_decision().await, (45, Outcome::Started), "the newest packets are held");
}

/// An engine with an expired wake from an earlier process, which called the hypervisor for it or did not.
fn start_with_saved_wake(directory: &std::path::Path, called: Called) -> TestEngine {
    start_with_wake_since(directory, 1, called)
}

/// The same with a wake that has not expired.
fn start_with_recent_wake(directory: &std::path::Path, called: Called) -> TestEngine {
    start_with_wake_since(directory, wakevirt_service::clock::boottime(), called)
}

fn start_with_wake_since(directory: &std::path::Path, since: u64, called: Called) -> TestEngine {
    let (mut file, _) = StateFile::open_in(directory);
    let packet = Packet { mac: mac(1), sequence: 1, details: PacketDetails::default() };
    let subject = Subject::new(Some(mac(1)), Some(&domain(1, &[1])), None, Some(&packet));
    let wakes = vec![SavedWake::new(&id(1), &subject, Handling::default(), since, called)];
    file.save(&SavedState { wakes, ..SavedState::default() });
    let (file, state) = StateFile::open_in(directory);
    start_with_state(rules(&["vm*"]), file, state)
}

#[tokio::test]
async fn the_state_decides_before_a_wake_expires() {
    let starting = State::Paused(Pause::StartingUp);
    for (state, outcome) in
        [(State::Running, Outcome::Started), (starting, Outcome::Started), (State::ShutOff, Outcome::Expired)]
    {
        let fake = Fake::new(&[(1, state)], &[]);
        let directory = tempfile::tempdir().unwrap();
        let mut engine = start_with_saved_wake(directory.path(), Called::Maybe);
        engine.requests.counts().await.unwrap();
        assert!(engine.decisions.try_recv().is_err(), "the outcome is not known yet");
        engine.update(up(&fake, vec![domain(1, &[1])])).await;
        if state == starting {
            engine.update(Update::Changing(id(1))).await;
            fake.set(1, State::Running);
        }
        assert_eq!(engine.next_decision().await, (1, outcome), "{state}");
        assert!(fake.starts().is_empty(), "the wake has expired");
    }
    // Without a call to the hypervisor, it expires at once.
    let directory = tempfile::tempdir().unwrap();
    let mut engine = start_with_saved_wake(directory.path(), Called::No);
    assert_eq!(engine.next_decision().await, (1, Outcome::Expired));
}

/// The domain was started, and has been switched off since: it is not started again.
#[tokio::test]
async fn the_reason_for_which_a_domain_is_off_shows_the_result_of_the_call() {
    let cases = [
        (Called::WhileOff(Stop::Shutdown), Stop::Destroyed, Outcome::Started, false),
        (Called::WhileOff(Stop::Unknown), Stop::Shutdown, Outcome::Started, false),
        (Called::Running, Stop::Shutdown, Outcome::Started, false),
        (Called::WhileOff(Stop::Destroyed), Stop::Failed, Outcome::Failed, false),
        // It is off for the same reason, or the hypervisor has forgotten the reason: it is started.
        (Called::WhileOff(Stop::Destroyed), Stop::Destroyed, Outcome::Started, true),
        (Called::WhileOff(Stop::Destroyed), Stop::Unknown, Outcome::Started, true),
        (Called::Maybe, Stop::Destroyed, Outcome::Started, true),
    ];
    for (called, stop, outcome, starts) in cases {
        let fake = Fake::new(&[(1, State::ShutOff)], &[]);
        fake.set_stop(stop);
        let directory = tempfile::tempdir().unwrap();
        let mut engine = start_with_recent_wake(directory.path(), called);
        engine.update(up(&fake, vec![domain(1, &[1])])).await;
        assert_eq!(engine.next_decision().await, (1, outcome), "{called:?}, {stop:?}");
        assert_eq!(!fake.starts().is_empty(), starts, "{called:?}, {stop:?}");
    }
}

/// Before the hypervisor is called, the state file contains why the domain is off.
#[tokio::test]
async fn saves_why_the_domain_is_off() {
    let directory = tempfile::tempdir().unwrap();
    let (file, state) = StateFile::open_in(directory.path());
    let fake = Fake::new(&[(1, State::ShutOff)], &[1]);
    let engine = start_with_state(rules(&["vm*"]), file, state);
    engine.update(up(&fake, vec![Domain { stop: Stop::Destroyed, ..domain(1, &[1]) }])).await;
    engine.send_packet(1).await;
    fake.wait_for_starts(1).await;
    let saved = StateFile::read_saved(directory.path());
    let called = |saved: SavedState| saved.wakes.iter().map(|wake| wake.called).collect::<Vec<_>>();
    assert_eq!(called(saved), [Called::WhileOff(Stop::Destroyed)]);
    // An event that arrives before the reply is saved as well.
    engine.update(Update::Running(id(1))).await;
    engine.wait_until_idle().await;
    while called(StateFile::read_saved(directory.path())) != [Called::Running] {
        tokio::task::yield_now().await;
    }
    fake.release();
}
