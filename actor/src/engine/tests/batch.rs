//! Many wakes begin at the same time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use wakevirt_service::clock;

use super::*;
use crate::engine::state_file::SavedWake;
use crate::hypervisor::AttemptFuture;
use crate::model::{Called, Subject};
use crate::policy::rules::Handling;

/// The number of held packets, each for a domain of its own.
const PACKETS: u8 = 200;

/// A hypervisor whose attempts do not end. The first one reads the state file.
struct Stalled {
    directory: PathBuf,
    attempts: AtomicUsize,
    /// The number of saves, and the wakes in the file.
    found: Mutex<Option<(u64, Vec<SavedWake>)>>,
}

impl Hypervisor for Stalled {
    fn attempt(&self, _: AttemptRequest) -> AttemptFuture {
        self.found.lock().unwrap().get_or_insert_with(|| {
            (StateFile::saves(&self.directory), StateFile::read_saved(&self.directory).wakes)
        });
        self.attempts.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }

    fn queued(&self) -> usize {
        0
    }

    fn is_alive(&self) -> bool {
        true
    }
}

/// Each save contains all wakes. With one save for each of thousands of wakes, the watchdog would end the process.
#[tokio::test]
async fn saves_the_wakes_of_a_hypervisor_once_before_the_first_call() {
    for number in [20, 2000] {
        let directory = tempfile::tempdir().unwrap();
        let numbered = |number: u128| {
            let id = Id { connection: URI.into(), uuid: Uuid::from_u128(1000 + number) };
            Domain { id, ..domain(0, &[]) }
        };
        let mut domains: Vec<_> = (0..number).map(numbered).collect();
        let wake = |domain: &Domain| {
            let subject = Subject::new(None, Some(domain), None, None);
            SavedWake::new(&domain.id, &subject, Handling::default(), clock::boottime(), Called::No)
        };
        let wakes = domains.iter().map(wake).collect();
        domains.extend((1..=PACKETS).map(|number| domain(number, &[number])));
        let packet = |last: u8| {
            let details = PacketDetails::default();
            Packet { mac: mac(last), sequence: last.into(), details }
        };
        let packets = (1..=PACKETS).map(packet).collect();
        let (mut file, _) = StateFile::open_in(directory.path());
        file.save(&SavedState { packets, wakes, ..SavedState::default() });
        let (file, state) = StateFile::open_in(directory.path());
        let before = StateFile::saves(directory.path());
        let engine = start_with_state(rules(&["vm*"]), file, state);
        let hypervisor = Arc::new(Stalled {
            directory: directory.path().to_owned(),
            attempts: AtomicUsize::new(0),
            found: Mutex::default(),
        });
        let total = domains.len();
        engine.update(Update::Up(URI.into(), hypervisor.clone(), domains)).await;
        while hypervisor.attempts.load(Ordering::SeqCst) < total {
            tokio::task::yield_now().await;
        }
        let (saves, wakes) = hypervisor.found.lock().unwrap().take().unwrap();
        assert_eq!(
            wakes.iter().filter(|wake| wake.called.is_possible()).count(),
            total,
            "all are in the file"
        );
        assert_eq!(saves - before, 1, "{total} wakes");
    }
}
