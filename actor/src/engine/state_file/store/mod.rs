//! Saves and restores the state, and counts crashes, so that nothing in the state makes the service crash more than twice
//! in a row.

use std::collections::HashMap;
use std::fs::{OpenOptions, remove_file};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wakevirt_service::clock;
use wakevirt_service::logs::{kind, shown};

use super::file::{MAX_SIZE, create_anew, directory, read, take_clean_exit};
use super::slots::{self, Slots};
use super::{SavedState, SavedWake};
use crate::model::{Packet, Position};

const FILE: &str = "state";
/// The first byte of a file in the earlier format, which has no slots: the content follows this byte.
const WITHOUT_SLOTS: u8 = 8;
/// The number of consecutive crashes after which a packet or wake is abandoned.
const MAX_CRASHES: u8 = 2;
/// After this time in one process, a packet or wake that is only held is no longer a suspect if the process crashes.
const HELD_SUSPECT_TIME: Duration = Duration::from_secs(60);

/// The state file.
#[derive(Debug, Default)]
pub struct StateFile {
    /// `None` if nothing is saved.
    path: Option<PathBuf>,
    /// `None` before the first save, and after a failed one.
    slots: Option<Slots>,
    /// Whether the last save failed.
    failed: bool,
    /// The crash records of all packets and wakes in the state.
    suspects: HashMap<Key, Suspect>,
    /// Whether the file lists suspects that are only held.
    has_held_suspects: bool,
}

/// The crash record of a packet or wake.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    /// The number of consecutive crashes in which it was a suspect.
    crashes: u8,
    /// When this process first saved or restored it.
    since: Instant,
}

/// The content of a record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    state: SavedState,
    /// The packets and wakes that are suspects if the process crashes, each with the number of consecutive earlier
    /// crashes in which it was a suspect.
    suspects: Vec<(Key, u8)>,
}

impl Content {
    /// The content if that of the file is lost. An earlier process may have handled all packets captured before `now`
    /// (CLOCK_BOOTTIME, in microseconds).
    fn lost(now: u64) -> Self {
        Self { state: SavedState { not_before: now, ..SavedState::default() }, suspects: Vec::new() }
    }
}

/// The content of a file without slots.
#[derive(Debug, Serialize, Deserialize)]
struct Earlier {
    position: Position,
    packets: Vec<Packet>,
    wakes: Vec<SavedWake>,
    suspects: Vec<(Key, u8)>,
}

impl Earlier {
    fn into_content(self) -> Content {
        let Self { position, packets, wakes, suspects } = self;
        Content { state: SavedState { position, packets, wakes, ..SavedState::default() }, suspects }
    }
}

/// Identifies a packet or wake, in this process and the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Key {
    /// A packet, or the wake that it became.
    Packet(Position),
    /// A call to wake the domain with this UUID.
    Call(u128),
}

impl Key {
    fn of(wake: &SavedWake) -> Self {
        wake.packet.as_ref().map_or(Self::Call(wake.uuid), |packet| Self::Packet(Position::of(packet)))
    }
}

impl StateFile {
    /// Opens the file in the runtime directory, and returns its content.
    #[must_use]
    pub fn open() -> (Self, SavedState) {
        Self::open_in(&directory())
    }

    pub(crate) fn open_in(directory: &Path) -> (Self, SavedState) {
        let path = path_of(directory);
        // Done before the file is read, so that a crash during the read counts as well.
        let is_clean = take_clean_exit(directory);
        let now = clock::boottime();
        let (mut content, loss) = match recover(&path) {
            Ok(content) => (content, None),
            Err(loss) => (Content::lost(now), Some(loss)),
        };
        // A file from before a boot can contain a time in the future.
        content.state.not_before = content.state.not_before.min(now);
        if is_clean {
            content.suspects.clear();
        } else {
            content.suspects.iter_mut().for_each(|(_, crashes)| *crashes = crashes.saturating_add(1));
        }
        abandon_suspects(&mut content);
        let Content { mut state, suspects } = content;
        let since = Instant::now();
        let suspects = suspects.into_iter().map(|(key, crashes)| (key, Suspect { crashes, since })).collect();
        let mut file =
            Self { path: Some(path), slots: None, failed: false, suspects, has_held_suspects: false };
        // Saves the counts and `not_before` before anything is tried again.
        if let Err(error) = file.write(&state, since) {
            if !is_clean {
                abandon_uncounted(&mut state);
            }
            // The previous process may have been unable to update the file as well.
            state.not_before = now;
            file.failed = true;
            empty(&path_of(directory));
            tracing::warn!(
                MESSAGE_ID = kind::STATE_NOT_SAVED,
                "cannot write to {}: {error}; a restart loses pending wakes, and the packets that arrive during \
                 the restart; create the directory for the service's user, or have the service manager create it \
                 (RuntimeDirectory=)",
                shown(directory)
            );
        }
        if let Some(loss) = loss {
            report_loss(&path_of(directory), loss);
        }
        (file, state)
    }

    /// Whether the state was saved the last time.
    #[must_use]
    pub const fn is_available(&self) -> bool {
        self.path.is_some() && !self.failed
    }

    /// Whether the last save failed. The file can be older than the state, so the save must be repeated.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether the file was removed, renamed or replaced since the last save.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.slots.as_ref().zip(self.path.as_ref()).is_some_and(|(slots, path)| !slots.is_at(path))
    }

    /// Saves the state. Only the first of several errors in a row is logged.
    pub fn save(&mut self, state: &SavedState) {
        let Some(path) = self.path.clone() else { return };
        let result = self.write(state, Instant::now());
        if let (Err(error), false) = (&result, self.failed) {
            tracing::warn!(
                MESSAGE_ID = kind::STATE_NOT_SAVED,
                "cannot write {}: {error}; a restart may lose wakes",
                shown(&path)
            );
        }
        if result.is_err() {
            empty(&path);
            // The emptied file has no slots any more.
            self.slots = None;
        }
        self.failed = result.is_err();
    }

    /// Whether the state must be saved again even if it does not change, because the file lists suspects that are only
    /// held.
    #[must_use]
    pub const fn needs_rewrite(&self) -> bool {
        self.has_held_suspects
    }

    fn write(&mut self, state: &SavedState, now: Instant) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let (mut known, mut listed) = (HashMap::new(), Vec::new());
        self.has_held_suspects = false;
        for (key, called) in keys(state) {
            let suspect = self.suspects.get(&key).copied().unwrap_or(Suspect { crashes: 0, since: now });
            let is_new = now.saturating_duration_since(suspect.since) < HELD_SUSPECT_TIME;
            self.has_held_suspects |= is_new && !called;
            if called || is_new {
                listed.push((key.clone(), suspect.crashes));
            }
            known.insert(key, suspect);
        }
        self.suspects = known;
        let content = postcard::to_allocvec(&(state, &listed)).map_err(io::Error::other)?;
        match &mut self.slots {
            Some(slots) => slots.write(path, &content)?,
            None => self.slots = Some(Slots::create(path, &content)?),
        }
        Ok(())
    }
}

fn path_of(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Empties a file that cannot be updated. Otherwise, the next process would repeat the wakes since the file was written.
/// A missing file would mean that no process has handled a packet since boot.
fn empty(path: &Path) {
    // This fails on a read-only filesystem. While the next process cannot write the file either, it does not use its
    // position.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let _ = OpenOptions::new().write(true).custom_flags(flags).open(path).and_then(|file| file.set_len(0));
}

/// The keys of all packets and wakes, and whether the hypervisor may have been called for each.
fn keys(state: &SavedState) -> impl Iterator<Item = (Key, bool)> {
    let packets = state.packets.iter().map(|packet| (Key::Packet(Position::of(packet)), false));
    packets.chain(state.wakes.iter().map(|wake| (Key::of(wake), wake.called.is_possible())))
}

/// Why the content of the file is lost.
#[derive(Debug)]
struct Loss {
    reason: String,
    /// The bytes of a damaged file.
    damaged: Option<Vec<u8>>,
}

/// The content of the file, which is empty if there is no file.
///
/// A file that cannot be used is not removed: if this process is killed before a new file replaces it, the next one would
/// take that for a boot.
fn recover(path: &Path) -> Result<Content, Loss> {
    let shown = shown(path);
    let (reason, damaged) = match read(path) {
        Ok(Some(bytes)) => match parse(path, &bytes) {
            Some(content) => return Ok(content),
            // Not set aside: that would replace the file that was damaged.
            None if bytes.is_empty() => (format!("{shown} is empty: it could not be updated earlier"), None),
            None => (format!("{shown} is damaged or has a different version"), Some(bytes)),
        },
        Ok(None) => (format!("{shown} is larger than {MAX_SIZE} bytes"), None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        Err(error) => (format!("cannot read {shown}: {error}"), None),
    };
    Err(Loss { reason, damaged })
}

/// Logs the loss, and sets a damaged file aside.
///
/// Called after the new file was written, which needs the space more. The file is copied because [`empty`] would also empty
/// a link to it.
fn report_loss(path: &Path, loss: Loss) {
    let aside = path.with_extension("unread");
    let copied = loss.damaged.map(|bytes| match write_new(&aside, &bytes) {
        Ok(()) => format!(", and the file was copied to {}", shown(&aside)),
        Err(error) => format!(", and the file cannot be copied to {}: {error}", shown(&aside)),
    });
    tracing::warn!(
        MESSAGE_ID = kind::STATE_NOT_RESTORED,
        "{}; pending wakes are lost{}",
        loss.reason,
        copied.unwrap_or_default()
    );
}

/// Replaces the file with a new one, which is removed if it cannot be written completely.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_anew(path)?;
    file.write_all(bytes).inspect_err(|_| drop(remove_file(path)))
}

/// Returns `None` if the content is damaged or has a different version.
fn parse(path: &Path, bytes: &[u8]) -> Option<Content> {
    if let Some((&WITHOUT_SLOTS, content)) = bytes.split_first() {
        return decode(content).map(Earlier::into_content);
    }
    let newest = slots::newest(bytes)?;
    if newest.other_is_damaged {
        tracing::warn!(
            MESSAGE_ID = kind::STATE_NOT_RESTORED,
            "one of the two records in {} is damaged; if it was the newer one, the last change is lost",
            shown(path)
        );
    }
    decode(newest.content)
}

fn decode<T: DeserializeOwned>(content: &[u8]) -> Option<T> {
    let (content, rest) = postcard::take_from_bytes(content).ok()?;
    rest.is_empty().then_some(content)
}

/// Removes the packets and wakes that were pending during the last crash. Called if the next crash cannot be counted:
/// trying them again could make the service crash in a loop.
fn abandon_uncounted(state: &mut SavedState) {
    let packets = std::mem::take(&mut state.packets).len();
    let wakes = std::mem::take(&mut state.wakes).len();
    if packets + wakes > 0 {
        tracing::error!(
            MESSAGE_ID = kind::WAKE_ABANDONED,
            "abandoned wakes: {wakes}, abandoned packets: {packets}; they were pending when the service crashed, and \
             the next crash cannot be counted"
        );
    }
}

/// Removes the packets and wakes that were suspects in too many crashes.
fn abandon_suspects(content: &mut Content) {
    let crashes: HashMap<&Key, u8> = content.suspects.iter().map(|(key, crashes)| (key, *crashes)).collect();
    let is_abandoned = |key: Key| crashes.get(&key).is_some_and(|crashes| *crashes >= MAX_CRASHES);
    let state = &mut content.state;
    state.packets.retain(|packet| {
        let abandoned = is_abandoned(Key::Packet(Position::of(packet)));
        if abandoned {
            tracing::error!(
                MESSAGE_ID = kind::WAKE_ABANDONED,
                WAKEVIRT_MAC = %packet.mac,
                "packet for {} is abandoned: the service crashed {MAX_CRASHES} times before it made a decision",
                packet.mac
            );
        }
        !abandoned
    });
    state.abandoned = state.wakes.extract_if(.., |wake| is_abandoned(Key::of(wake))).collect();
}

#[cfg(test)]
impl StateFile {
    /// The state in the file, without counting a crash.
    pub(crate) fn read_saved(directory: &Path) -> SavedState {
        let path = directory.join(FILE);
        parse(&path, &read(&path).unwrap().unwrap()).unwrap().state
    }

    /// How often the state was saved since the file was created.
    pub(crate) fn saves(directory: &Path) -> u64 {
        slots::newest(&read(&directory.join(FILE)).unwrap().unwrap()).unwrap().sequence
    }
}

#[cfg(test)]
mod tests;
