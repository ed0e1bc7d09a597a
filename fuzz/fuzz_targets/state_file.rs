//! A state file of the actor is set aside, or restores a state that is the same after it is saved and restored again.
//!
//! An input's first byte selects the kind of file:
//! - the bytes that follow, as they are
//! - the format without slots: the bytes that follow are the content
//! - two slots: see [`Slots`]. The newest undamaged record counts

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use wakevirt_actor::engine::state_file::{SavedState, StateFile, mark_clean_exit};

const WITHOUT_SLOTS: u8 = 8;
const MAGIC: &[u8; 8] = b"\x0awakevrt";

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory can be created");
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("RUNTIME_DIRECTORY", directory.path()) };
    directory
});

fuzz_target!(|input: &[u8]| {
    let [kind, rest @ ..] = input else { return };
    match kind % 3 {
        0 => drop(check(rest)),
        1 => drop(check(&[&[WITHOUT_SLOTS], rest].concat())),
        _ => {
            let Some(slots) = Slots::new(rest) else { return };
            let (file, newest) = (slots.file(), slots.newest());
            let expected = newest.map(|record| check(&Slots { first: record, ..slots }.undamaged_first()));
            assert_eq!(check(&file), expected.unwrap_or_default());
        }
    }
});

/// Restores the state from this file as after a crash, and saves it and restores it again.
fn check(file: &[u8]) -> SavedState {
    // The files of the previous input.
    for file in DIRECTORY.path().read_dir().expect("the directory can be read") {
        std::fs::remove_file(file.expect("the directory can be read").path())
            .expect("the file can be removed");
    }
    std::fs::write(DIRECTORY.path().join("state"), file).expect("the file can be written");
    let (mut state_file, restored) = StateFile::open();
    assert!(state_file.is_available());
    let SavedState { position, packets, wakes, autostarted, abandoned, .. } = &restored;
    let items = packets.len() + wakes.len() + autostarted.len() + abandoned.len();
    assert!(items + position.epoch.len() <= file.len(), "more than the file has room for");
    // The suspects of two crashes are reported once, and then forgotten.
    let mut state = SavedState { abandoned: Vec::new(), ..restored.clone() };
    for _ in 0..2 {
        mark_clean_exit();
        let (_, again) = StateFile::open();
        assert_eq!(again, state);
        state_file.save(&state);
    }
    state.position.sequence = state.position.sequence.wrapping_add(1);
    state_file.save(&state);
    mark_clean_exit();
    assert_eq!(StateFile::open().1, state);
    // This time depends on the clock.
    SavedState { not_before: 0, ..restored }
}

/// A file with two records. The first bytes of an input are the damage, its position, the sequence numbers of both
/// records, and the length of the first one's content.
#[derive(Clone, Copy)]
struct Slots<'a> {
    damage: u8,
    position: u8,
    first: (u64, &'a [u8]),
    second: (u64, &'a [u8]),
}

impl<'a> Slots<'a> {
    fn new(input: &'a [u8]) -> Option<Self> {
        let [damage, position, first, second, high, low, contents @ ..] = input else { return None };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let contents = contents.split_at_checked(length)?;
        let sequence = |byte: u8| if byte == u8::MAX { u64::MAX } else { u64::from(byte) };
        let (first, second) = ((sequence(*first), contents.0), (sequence(*second), contents.1));
        Some(Self { damage: damage % 4, position: *position, first, second })
    }

    fn file(&self) -> Vec<u8> {
        let mut slots = [self.first, self.second].map(record);
        let size = slots.each_ref().map(Vec::len).into_iter().max().unwrap_or_default() + 8;
        for (bit, slot) in slots.iter_mut().enumerate() {
            if self.damage & 1 << bit != 0 {
                // The first byte selects the format of the whole file.
                let index = 1 + usize::from(self.position) % (slot.len() - 1);
                slot[index] ^= 0x10;
            }
            slot.resize(size, 0);
        }
        slots.concat()
    }

    /// The record that counts.
    fn newest(&self) -> Option<(u64, &'a [u8])> {
        match self.damage {
            0 if self.first.0 > self.second.0 => Some(self.first),
            0 | 1 => Some(self.second),
            2 => Some(self.first),
            _ => None,
        }
    }

    /// A file with only the first record.
    fn undamaged_first(&self) -> Vec<u8> {
        let first = record(self.first);
        [first.as_slice(), &vec![0; first.len()]].concat()
    }
}

fn record((sequence, content): (u64, &[u8])) -> Vec<u8> {
    let sequence = sequence.to_le_bytes();
    let length = u32::try_from(content.len()).expect("an input is short").to_le_bytes();
    let checksum = crc32fast::hash(&[&sequence, content].concat()).to_le_bytes();
    [&MAGIC[..], &length, &checksum, &sequence, content].concat()
}
