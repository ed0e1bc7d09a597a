use std::os::unix::fs::{PermissionsExt as _, symlink};

use uuid::Uuid;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::{MacAddr, Transport};

use super::*;
use crate::engine::state_file::file::mark_clean_exit_in;
use crate::model::{Authority, Called, Caller, Id, Packet, Subject};
use crate::policy::rules::{Halted, Handling, Paused};

fn packet(sequence: u64) -> Packet {
    let details = PacketDetails {
        epoch: Some("e".to_owned()),
        interface: Some("br0".to_owned()),
        alternatives: vec!["bridge".to_owned()],
        transport: Some(Transport::Udp4),
        vlan: Some(20),
        source_mac: Some(MacAddr::new([2; 6])),
        source: Some([192, 168, 1, 7].into()),
        secure_on: true,
        boottime: Some(5),
    };
    Packet { mac: MacAddr::new([2, 0, 0, 0, 0, 1]), sequence, details }
}

/// A wake of the domain with this number, for a packet or for a call.
fn wake(number: u128, packet: Option<&Packet>) -> SavedWake {
    let id = Id { connection: "test:///".into(), uuid: Uuid::from_u128(number) };
    let caller = packet.is_none().then_some(Caller { user: 1000, authority: Authority::Polkit });
    let subject = Subject {
        mac: Some(MacAddr::new([2; 6])),
        domain: Some((id.clone(), "win11".to_owned())),
        rule: Some("mac = \"*\"".to_owned()),
        packet: packet.cloned(),
        caller,
    };
    let handling = Handling { paused: Paused::Leave, halted: Halted::Leave };
    let wake = SavedWake::new(&id, &subject, handling, 5, Called::Maybe);
    assert_eq!(wake.handling(), handling);
    assert_eq!(wake.clone().subject(), (id, subject));
    wake
}

fn state(packets: &[Packet], wakes: &[SavedWake]) -> SavedState {
    let position = Position::of(&packet(9));
    SavedState {
        position,
        packets: packets.to_vec(),
        wakes: wakes.to_vec(),
        autostarted: vec!["test:///default".to_owned()],
        not_before: 5,
        abandoned: Vec::new(),
    }
}

/// Whether the state is that of a process which ignores earlier packets because it has lost its state.
fn is_lost(state: &SavedState) -> bool {
    let SavedState { not_before, .. } = *state;
    (1..=clock::boottime()).contains(&not_before)
        && *state == SavedState { not_before, ..SavedState::default() }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = directory.read_dir().unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn reads_back_the_saved_state() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, empty) = StateFile::open_in(directory.path());
    assert_eq!(empty, SavedState::default());
    let state = state(&[packet(7)], &[wake(1, Some(&packet(8))), wake(2, None)]);
    file.save(&state);
    assert_eq!(StateFile::open_in(directory.path()).1, state);
    assert_eq!(names(directory.path()), [FILE], "there is no other file");
    let mode = directory.path().join(FILE).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A file that the version before the slots has written.
#[test]
fn reads_the_earlier_format() {
    let directory = tempfile::tempdir().unwrap();
    let SavedState { position, packets, wakes, .. } = state(&[packet(7)], &[wake(1, Some(&packet(8)))]);
    let expected = SavedState { position, packets, wakes, ..SavedState::default() };
    let SavedState { position, packets, wakes, .. } = expected.clone();
    let earlier = Earlier { position, packets, wakes, suspects: Vec::new() };
    let bytes = postcard::to_extend(&earlier, vec![WITHOUT_SLOTS]).unwrap();
    std::fs::write(directory.path().join(FILE), bytes).unwrap();
    for _ in 0..2 {
        assert_eq!(StateFile::open_in(directory.path()).1, expected);
        mark_clean_exit_in(directory.path());
    }
    assert_eq!(names(directory.path()), ["ended", FILE]);
}

#[test]
fn continues_without_a_file_and_with_a_damaged_one() {
    let (file, state) = StateFile::open_in(Path::new("/no/such/directory"));
    assert!(!file.is_available() && is_lost(&state));
    let directory = tempfile::tempdir().unwrap();
    let lists = [WITHOUT_SLOTS, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let newer = [&[slots::VERSION + 1], &b"wakevrt"[..]].concat();
    for bytes in [&[WITHOUT_SLOTS][..], &newer, b"\x02\x00\x00\x00\x00", b"\x01\xff\xff\xff\xff\xff", &lists]
    {
        std::fs::write(directory.path().join(FILE), bytes).unwrap();
        let (file, state) = StateFile::open_in(directory.path());
        assert!(file.is_available() && is_lost(&state));
        assert_eq!(std::fs::read(directory.path().join("state.unread")).unwrap(), bytes, "it is set aside");
    }
    // Neither is set aside: the actor itself empties a file, and never writes a larger one.
    let huge = [&[WITHOUT_SLOTS], vec![0; MAX_SIZE].as_slice()].concat();
    for bytes in [&b""[..], &huge] {
        std::fs::write(directory.path().join(FILE), bytes).unwrap();
        let (file, state) = StateFile::open_in(directory.path());
        assert!(file.is_available() && is_lost(&state));
        assert_eq!(std::fs::read(directory.path().join("state.unread")).unwrap(), lists);
    }
}

/// Otherwise the next process would take this for a boot, and repeat wakes and `autostart`.
#[test]
fn a_damaged_file_remains_until_a_new_one_replaces_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    std::fs::write(&path, "damaged").unwrap();
    // The process is killed before it creates the new file.
    assert!(recover(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"damaged");
    // A directory in place of the new file: not even root can replace it.
    let new = directory.path().join("state.new");
    std::fs::create_dir_all(new.join("in-the-way")).unwrap();
    for _ in 0..2 {
        let (file, state) = StateFile::open_in(directory.path());
        assert!(!file.is_available() && is_lost(&state));
        assert_eq!(std::fs::read(&path).unwrap(), b"", "another version does not use it either");
    }
    std::fs::remove_dir_all(&new).unwrap();
    let (file, state) = StateFile::open_in(directory.path());
    assert!(file.is_available() && is_lost(&state));
    let aside = directory.path().join("state.unread");
    assert_eq!(std::fs::read(&aside).unwrap(), b"damaged", "it is still set aside");
    // It cannot be set aside.
    std::fs::remove_file(&aside).unwrap();
    std::fs::create_dir(&aside).unwrap();
    std::fs::write(&path, "damaged").unwrap();
    assert!(recover(&path).is_err() && path.exists());
    assert!(is_lost(&StateFile::open_in(directory.path()).1));
}

/// A FIFO, a link or a device in place of the file or the new file is neither read nor written.
#[test]
fn does_not_block_on_special_files() {
    let target = tempfile::NamedTempFile::new().unwrap();
    let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = |path: &Path| symlink(target.path(), path).unwrap();
    let device = |path: &Path| symlink("/dev/zero", path).unwrap();
    for create in [&fifo as &dyn Fn(&Path), &link, &device] {
        for name in [FILE, "state.new"] {
            let directory = tempfile::tempdir().unwrap();
            create(&directory.path().join(name));
            let (mut file, empty) = StateFile::open_in(directory.path());
            // Only a file that could not be read leads to a lost state.
            assert!(file.is_available() && (is_lost(&empty) || name != FILE));
            let state = state(&[], &[wake(1, None)]);
            file.save(&state);
            assert_eq!(StateFile::open_in(directory.path()).1, state);
            assert!(std::fs::symlink_metadata(directory.path().join(FILE)).unwrap().is_file());
        }
    }
    assert_eq!(target.path().metadata().unwrap().len(), 0, "the target of a link is not written");
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join(FILE)).unwrap();
    assert!(!StateFile::open_in(directory.path()).0.is_available());
}

proptest::proptest! {
    /// The content is either accepted or rejected.
    #[test]
    fn never_panics_on_arbitrary_content(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, [&[WITHOUT_SLOTS], bytes.as_slice()].concat()).unwrap();
        if let Some(content) = parse(&path, &read(&path).unwrap().unwrap()) {
            let (file, state) = StateFile::open_in(directory.path());
            proptest::prop_assert!(file.is_available());
            proptest::prop_assert_eq!(state.position, content.state.position);
        }
    }

    #[test]
    fn never_panics_on_a_flipped_bit(index: proptest::sample::Index, bit in 0..8_u32) {
        let directory = tempfile::tempdir().unwrap();
        let state = state(&[packet(7)], &[wake(1, Some(&packet(8))), wake(2, None)]);
        StateFile::open_in(directory.path()).0.save(&state);
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        // The rest of the first slot is empty.
        let index = index.index(400);
        bytes[index] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        proptest::prop_assert!(StateFile::open_in(directory.path()).0.is_available());
    }
}

#[test]
fn abandons_packets_and_wakes_that_were_pending_during_two_crashes() {
    let directory = tempfile::tempdir().unwrap();
    let (held, called) = (wake(1, Some(&packet(8))), wake(2, None));
    let all = state(&[packet(7)], &[held.clone(), called.clone()]);
    StateFile::open_in(directory.path()).0.save(&all);
    // After the first crash, everything is tried again, and another wake begins.
    let (mut file, state) = StateFile::open_in(directory.path());
    assert_eq!(state, all);
    let later = wake(3, None);
    file.save(&self::state(&[packet(7)], &[held.clone(), called.clone(), later.clone()]));
    // The second crash, before the next save.
    let (_, state) = StateFile::open_in(directory.path());
    assert_eq!((state.packets, state.wakes), (vec![], vec![later.clone()]));
    assert_eq!(state.abandoned, [held, called]);
    assert_eq!(state.position, all.position);
    // After the third crash, the file no longer contains them.
    let (_, state) = StateFile::open_in(directory.path());
    assert_eq!((state.wakes, state.abandoned), (vec![], vec![later]));
    let (_, state) = StateFile::open_in(directory.path());
    assert_eq!(state, SavedState { packets: vec![], wakes: vec![], ..all });
}

#[test]
fn counts_crashes_across_the_step_from_packet_to_wake() {
    let directory = tempfile::tempdir().unwrap();
    StateFile::open_in(directory.path()).0.save(&state(&[packet(7)], &[]));
    let (mut file, _) = StateFile::open_in(directory.path());
    let wake = wake(1, Some(&packet(7)));
    file.save(&state(&[], std::slice::from_ref(&wake)));
    assert_eq!(StateFile::open_in(directory.path()).1.abandoned, [wake]);
}

#[test]
fn counts_neither_clean_restarts_nor_ended_wakes() {
    let directory = tempfile::tempdir().unwrap();
    let all = state(&[packet(7)], &[wake(1, None)]);
    StateFile::open_in(directory.path()).0.save(&all);
    for _ in 0..5 {
        mark_clean_exit_in(directory.path());
        let (mut file, state) = StateFile::open_in(directory.path());
        assert_eq!(state, all);
        file.save(&state);
    }
    // After a crash, the wake ends. At the next crash, another wake of the domain is running.
    let (mut file, state) = StateFile::open_in(directory.path());
    assert_eq!(state, all);
    file.save(&self::state(&[], &[]));
    file.save(&all);
    assert_eq!(StateFile::open_in(directory.path()).1, all);
}

/// Only consecutive crashes count: an earlier crash may have had a different cause.
#[test]
fn a_clean_exit_resets_the_crash_count() {
    let directory = tempfile::tempdir().unwrap();
    let all = state(&[packet(7)], &[wake(1, None)]);
    StateFile::open_in(directory.path()).0.save(&all);
    for _ in 0..5 {
        let (_, after_crash) = StateFile::open_in(directory.path());
        assert_eq!(after_crash, all);
        mark_clean_exit_in(directory.path());
        assert_eq!(StateFile::open_in(directory.path()).1, all);
    }
}

#[test]
fn held_wakes_and_packets_are_suspects_only_for_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let held = SavedWake { called: Called::No, ..wake(1, None) };
    let called = wake(2, None);
    let all = state(&[packet(7)], &[held.clone(), called.clone()]);
    StateFile::open_in(directory.path()).0.save(&all);
    for crashes in 1..=5 {
        let (mut file, state) = StateFile::open_in(directory.path());
        assert!(file.needs_rewrite(), "they are suspects if the process crashes at once");
        assert_eq!((&state.packets, state.wakes.contains(&held)), (&all.packets, true), "{crashes}");
        assert_eq!(state.wakes.contains(&called), crashes < MAX_CRASHES);
        file.write(&state, Instant::now() + HELD_SUSPECT_TIME).unwrap();
        assert!(!file.needs_rewrite());
    }
}

/// Otherwise the service could crash in a loop.
#[test]
fn gives_up_if_a_crash_cannot_be_counted() {
    for is_clean in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let all = state(&[packet(7)], &[wake(1, None)]);
        StateFile::open_in(directory.path()).0.save(&all);
        if is_clean {
            mark_clean_exit_in(directory.path());
        }
        // A directory in place of the new file: not even root can replace it.
        std::fs::create_dir_all(directory.path().join("state.new/in-the-way")).unwrap();
        let (file, state) = StateFile::open_in(directory.path());
        assert!(!file.is_available());
        let expected = if is_clean { (all.packets, all.wakes) } else { (vec![], vec![]) };
        assert_eq!((state.packets, state.wakes), expected, "clean exit: {is_clean}");
        // The file no longer describes the state. When it can be written again, earlier packets are ignored.
        assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), b"");
        std::fs::remove_dir_all(directory.path().join("state.new")).unwrap();
        assert!(is_lost(&StateFile::open_in(directory.path()).1));
    }
}

/// The process that sets the file aside can be killed before it receives a packet.
#[test]
fn later_processes_ignore_the_packets_from_before_a_loss() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE), "damaged").unwrap();
    let (_, lost) = StateFile::open_in(directory.path());
    assert!(is_lost(&lost));
    let (mut file, state) = StateFile::open_in(directory.path());
    assert_eq!(state, lost);
    let position = Position::of(&packet(9));
    file.save(&SavedState { position: position.clone(), ..state });
    assert_eq!(StateFile::open_in(directory.path()).1, SavedState { position, ..lost.clone() });
    // In a file from before a boot, the time can be in the future.
    file.save(&SavedState { not_before: u64::MAX, ..SavedState::default() });
    let (_, state) = StateFile::open_in(directory.path());
    assert!(is_lost(&state) && state.not_before > lost.not_before);
}

#[test]
fn writes_a_new_file_after_a_failed_save() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, _) = StateFile::open_in(directory.path());
    let state = state(&[packet(7)], &[wake(1, None)]);
    file.save(&state);
    assert!(file.is_available() && !file.has_failed());
    file.save(&SavedState { autostarted: vec!["x".repeat(MAX_SIZE)], ..state.clone() });
    assert!(!file.is_available() && file.has_failed());
    assert_eq!(
        std::fs::read(directory.path().join(FILE)).unwrap(),
        b"",
        "the next process ignores earlier packets"
    );
    file.save(&state);
    assert!(file.is_available() && !file.has_failed());
    assert_eq!(StateFile::read_saved(directory.path()), state);
}

#[test]
fn detects_a_removed_file() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, state) = StateFile::open_in(directory.path());
    assert!(!file.is_removed());
    let path = directory.path().join(FILE);
    let renamed = directory.path().join("renamed");
    for is_renamed in [false, true] {
        if is_renamed { std::fs::rename(&path, &renamed) } else { std::fs::remove_file(&path) }.unwrap();
        assert!(file.is_removed());
        file.save(&state);
        assert!(!file.is_removed());
        assert_eq!(StateFile::read_saved(directory.path()), state);
    }
}
