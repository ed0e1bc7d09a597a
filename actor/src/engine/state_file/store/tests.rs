use std::os::unix::fs::{PermissionsExt as _, symlink};

use uuid::Uuid;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

use super::*;
use crate::model::Id;
use crate::model::Packet;
use crate::model::Subject;
use crate::model::{Authority, Caller};
use crate::policy::rules::Paused;

fn packet(sequence: u64) -> Packet {
    let details = PacketDetails {
        epoch: Some("e".to_owned()),
        interface: Some("br0".to_owned()),
        alternatives: vec!["bridge".to_owned()],
        vlan: Some(20),
        source_mac: Some(MacAddr::new([2; 6])),
        source: Some([192, 168, 1, 7].into()),
        secure_on: true,
        boottime: Some(5),
    };
    Packet { mac: MacAddr::new([2, 0, 0, 0, 0, 1]), sequence, details }
}

/// An intent to wake the domain of this number: for a packet, or for a call.
fn intent(number: u128, packet: Option<&Packet>) -> SavedWake {
    let id = Id { connection: "test:///".into(), uuid: Uuid::from_u128(number) };
    let caller = packet.is_none().then_some(Caller { user: 1000, by: Authority::Polkit });
    let subject = Subject {
        mac: Some(MacAddr::new([2; 6])),
        domain: Some((id.clone(), "win11".to_owned())),
        rule: Some("mac = \"*\"".to_owned()),
        packet: packet.cloned(),
        caller,
    };
    let intent = SavedWake::new(&id, &subject, Paused::Leave, 5, true);
    assert_eq!(intent.paused(), Paused::Leave);
    assert_eq!(intent.clone().subject(), (id, subject));
    intent
}

fn state(waiting: &[Packet], intents: &[SavedWake]) -> SavedState {
    let position = Position::of(&packet(9));
    SavedState { position, waiting: waiting.to_vec(), intents: intents.to_vec(), given_up: Vec::new() }
}

fn end_in_order(directory: &Path) {
    std::fs::File::create_new(directory.join(ENDED)).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let names = directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn remembers_what_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (mut memory, empty) = StateFile::open_in(directory.path());
    assert_eq!(empty, SavedState::default());
    let state = state(&[packet(7)], &[intent(1, Some(&packet(8))), intent(2, None)]);
    memory.save(&state);
    assert_eq!(StateFile::open_in(directory.path()).1, state);
    assert_eq!(names(directory.path()), [FILE], "nothing is left beside it");
    let mode = directory.path().join(FILE).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn does_without_a_file_and_with_one_that_is_broken() {
    let (memory, state) = StateFile::open_in(Path::new("/no/such/directory"));
    assert!(!memory.is_available() && state == SavedState::default());
    let directory = tempfile::tempdir().unwrap();
    let huge = [&[VERSION], vec![0; MAX_SIZE].as_slice()].concat();
    let lists = [VERSION, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for bytes in [&b""[..], &[VERSION], b"\x02\x00\x00\x00\x00", b"\x01\xff\xff\xff\xff\xff", &lists, &huge] {
        std::fs::write(directory.path().join(FILE), bytes).unwrap();
        let (memory, state) = StateFile::open_in(directory.path());
        assert!(memory.is_available() && state == SavedState::default());
        assert_eq!(std::fs::read(directory.path().join("state.unread")).unwrap(), bytes, "it is kept aside");
    }
}

/// Whatever lies in the place of the file, or of the new one: it is neither waited for nor written to.
#[test]
fn does_not_wait_for_what_is_no_file() {
    let target = tempfile::NamedTempFile::new().unwrap();
    let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = |path: &Path| symlink(target.path(), path).unwrap();
    let device = |path: &Path| symlink("/dev/zero", path).unwrap();
    for place in [&fifo as &dyn Fn(&Path), &link, &device] {
        for name in [FILE, "state.new"] {
            let directory = tempfile::tempdir().unwrap();
            place(&directory.path().join(name));
            let (mut memory, empty) = StateFile::open_in(directory.path());
            assert!(memory.is_available() && empty == SavedState::default());
            let state = state(&[], &[intent(1, None)]);
            memory.save(&state);
            assert_eq!(StateFile::open_in(directory.path()).1, state);
            assert!(std::fs::symlink_metadata(directory.path().join(FILE)).unwrap().is_file());
        }
    }
    assert_eq!(target.path().metadata().unwrap().len(), 0, "what a link leads to is left alone");
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join(FILE)).unwrap();
    assert!(!StateFile::open_in(directory.path()).0.is_available());
}

proptest::proptest! {
    /// Whatever the file holds: it is read, or it is not.
    #[test]
    fn no_file_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, [&[VERSION], bytes.as_slice()].concat()).unwrap();
        if let Some(kept) = read(&path).unwrap() {
            let (memory, state) = StateFile::open_in(directory.path());
            proptest::prop_assert!(memory.is_available());
            proptest::prop_assert_eq!(state.position, kept.state.position);
        }
    }

    /// One bit that is wrong in a file that was good.
    #[test]
    fn no_damage_makes_it_panic(place: proptest::sample::Index, bit in 0..8_u32) {
        let directory = tempfile::tempdir().unwrap();
        StateFile::open_in(directory.path()).0.save(&state(&[packet(7)], &[intent(1, Some(&packet(8))), intent(2, None)]));
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        proptest::prop_assert!(StateFile::open_in(directory.path()).0.is_available());
    }
}

#[test]
fn gives_up_what_was_under_way_in_two_crashes() {
    let directory = tempfile::tempdir().unwrap();
    let (held, called) = (intent(1, Some(&packet(8))), intent(2, None));
    let whole = state(&[packet(7)], &[held.clone(), called.clone()]);
    StateFile::open_in(directory.path()).0.save(&whole);
    // The first crash: all of it is tried again, and something new comes up.
    let (mut memory, state) = StateFile::open_in(directory.path());
    assert_eq!(state, whole);
    let later = intent(3, None);
    memory.save(&self::state(&[packet(7)], &[held.clone(), called.clone(), later.clone()]));
    // The second one, before anything is written.
    let (_, state) = StateFile::open_in(directory.path());
    assert_eq!((state.waiting, state.intents), (vec![], vec![later.clone()]));
    assert_eq!(state.given_up, [held, called]);
    assert_eq!(state.position, whole.position);
    // And the third: what was given up is gone, also from the file.
    let (_, state) = StateFile::open_in(directory.path());
    assert_eq!((state.intents, state.given_up), (vec![], vec![later]));
    let (_, state) = StateFile::open_in(directory.path());
    assert_eq!(state, SavedState { position: whole.position, ..SavedState::default() });
}

#[test]
fn counts_on_where_a_packet_becomes_an_intent() {
    let directory = tempfile::tempdir().unwrap();
    StateFile::open_in(directory.path()).0.save(&state(&[packet(7)], &[]));
    let (mut memory, _) = StateFile::open_in(directory.path());
    let intent = intent(1, Some(&packet(7)));
    memory.save(&state(&[], std::slice::from_ref(&intent)));
    assert_eq!(StateFile::open_in(directory.path()).1.given_up, [intent]);
}

#[test]
fn counts_no_restart_in_order_and_nothing_that_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let whole = state(&[packet(7)], &[intent(1, None)]);
    StateFile::open_in(directory.path()).0.save(&whole);
    for _ in 0..5 {
        end_in_order(directory.path());
        let (mut memory, state) = StateFile::open_in(directory.path());
        assert_eq!(state, whole);
        memory.save(&state);
    }
    // A crash, then the wake ends, and another one for the domain is under way at the next crash.
    let (mut memory, state) = StateFile::open_in(directory.path());
    assert_eq!(state, whole);
    memory.save(&self::state(&[], &[]));
    memory.save(&whole);
    assert_eq!(StateFile::open_in(directory.path()).1, whole);
}

/// Crashes are counted in a row: one that had another reason, long ago, is none of them.
#[test]
fn an_orderly_end_begins_the_count_anew() {
    let directory = tempfile::tempdir().unwrap();
    let whole = state(&[packet(7)], &[intent(1, None)]);
    StateFile::open_in(directory.path()).0.save(&whole);
    for _ in 0..5 {
        let (_, after_crash) = StateFile::open_in(directory.path());
        assert_eq!(after_crash, whole);
        end_in_order(directory.path());
        assert_eq!(StateFile::open_in(directory.path()).1, whole);
    }
}

#[test]
fn what_only_waits_is_not_suspected_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let held = SavedWake { called: false, ..intent(1, None) };
    let called = intent(2, None);
    let whole = state(&[packet(7)], &[held.clone(), called.clone()]);
    StateFile::open_in(directory.path()).0.save(&whole);
    for crashes in 1..=5 {
        let (mut memory, state) = StateFile::open_in(directory.path());
        assert!(memory.needs_rewrite(), "after a crash at once they are suspects");
        assert_eq!((&state.waiting, state.intents.contains(&held)), (&whole.waiting, true), "{crashes}");
        assert_eq!(state.intents.contains(&called), crashes < MAX_CRASHES);
        memory.write(&state, Instant::now() + HARMLESS).unwrap();
        assert!(!memory.needs_rewrite());
    }
}

/// A crash that cannot be counted could come again for ever.
#[test]
fn does_not_try_again_what_cannot_be_counted() {
    for in_order in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let whole = state(&[packet(7)], &[intent(1, None)]);
        StateFile::open_in(directory.path()).0.save(&whole);
        if in_order {
            end_in_order(directory.path());
        }
        // Nothing can be written there, not even by root.
        std::fs::create_dir_all(directory.path().join("state.new/in-the-way")).unwrap();
        let (memory, state) = StateFile::open_in(directory.path());
        assert!(!memory.is_available());
        let tried_again = (state.waiting, state.intents);
        let expected = if in_order { (whole.waiting, whole.intents) } else { (vec![], vec![]) };
        assert_eq!(tried_again, expected, "in order: {in_order}");
    }
}
