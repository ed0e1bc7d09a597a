//! The file: it is read and written so that nothing in its directory holds the service up, and so that nothing in
//! it makes the service crash more than twice.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{OpenOptions, remove_file, rename};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wakevirt_service::config;
use wakevirt_service::logs::shown;

use super::{SavedState, SavedWake};
use crate::model::Position;
use crate::privilege::FOLDER;

const FILE: &str = "state";
/// Its presence says that the last process ended in order.
const ENDED: &str = "ended";
/// The version of the format, which is the file's first byte.
const VERSION: u8 = 6;
/// The largest file that is read or written, in bytes.
const MAX_SIZE: usize = 16 * 1024 * 1024;
/// In how many crashes in a row something may have been under way before it is given up.
const MAX_CRASHES: u8 = 2;
/// What only waits, and has done so for this long in one process, is not suspected of its crash any more.
const HARMLESS: Duration = Duration::from_secs(60);

/// The file.
#[derive(Debug, Default)]
pub struct StateFile {
    /// `None` if there is no place for it.
    path: Option<PathBuf>,
    failed: bool,
    /// All that is under way.
    known: HashMap<Key, Known>,
    /// Whether the file names suspects that only wait.
    is_early: bool,
}

/// What is known of one thing that is under way.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// In how many crashes in a row it was a suspect.
    crashes: u8,
    /// Since when this process knows it.
    since: Instant,
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    state: SavedState,
    /// What is suspected if the process crashes, and in how many crashes in a row it was before.
    suspects: Vec<(Key, u8)>,
}

/// What tells one thing that is under way from another, in this process and in the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Key {
    /// A packet, which may be an intent by now.
    Packet(Position),
    /// A call to wake the domain of this UUID.
    Call(u128),
}

impl Key {
    fn of(intent: &SavedWake) -> Self {
        intent.packet.as_ref().map_or(Self::Call(intent.uuid), |packet| Self::Packet(Position::of(packet)))
    }
}

impl StateFile {
    /// The file in the runtime directory, and what is in it. Without one, nothing is remembered.
    #[must_use]
    pub fn open() -> (Self, SavedState) {
        Self::open_in(&directory())
    }

    pub(crate) fn open_in(directory: &Path) -> (Self, SavedState) {
        let path = directory.join(FILE);
        // A crash while this is being read counts as well: the mark is gone before.
        let in_order = remove_file(directory.join(ENDED)).is_ok();
        let mut kept = recover(&path);
        if in_order {
            kept.suspects.clear();
        } else {
            kept.suspects.iter_mut().for_each(|(_, crashes)| *crashes = crashes.saturating_add(1));
        }
        give_up(&mut kept);
        let Kept { mut state, suspects } = kept;
        let since = Instant::now();
        let known = suspects.into_iter().map(|(key, crashes)| (key, Known { crashes, since })).collect();
        let mut memory = Self { path: Some(path), failed: false, known, is_early: false };
        // Before anything of it is tried again.
        if let Err(error) = memory.write(&state, since) {
            if !in_order {
                forget_uncounted(&mut state);
            }
            tracing::warn!(
                "cannot write to {}: {error}; what is under way when the service ends is forgotten, and so are \
                 packets that come while it is away; create the directory for the service's user, or let the service manager do so (RuntimeDirectory=)",
                shown(directory)
            );
            return (Self::default(), state);
        }
        (memory, state)
    }

    /// Whether anything is remembered.
    #[must_use]
    pub const fn is_available(&self) -> bool {
        self.path.is_some()
    }

    /// Remembers this. An error is logged, once until it is over.
    pub fn save(&mut self, state: &SavedState) {
        let Some(path) = self.path.clone() else { return };
        let result = self.write(state, Instant::now());
        if let (Err(error), false) = (&result, self.failed) {
            tracing::warn!("cannot write {}: {error}; a restart may lose a wake", shown(&path));
        }
        self.failed = result.is_err();
    }

    /// Whether the file is to be written again soon, because it names suspects that only wait.
    #[must_use]
    pub const fn needs_rewrite(&self) -> bool {
        self.is_early
    }

    fn write(&mut self, state: &SavedState, now: Instant) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let (mut known, mut suspects) = (HashMap::new(), Vec::new());
        self.is_early = false;
        for (key, called) in keys(state) {
            let it = self.known.get(&key).copied().unwrap_or(Known { crashes: 0, since: now });
            let is_new = now.saturating_duration_since(it.since) < HARMLESS;
            self.is_early |= is_new && !called;
            if called || is_new {
                suspects.push((key.clone(), it.crashes));
            }
            known.insert(key, it);
        }
        self.known = known;
        let bytes = postcard::to_extend(&(state, &suspects), vec![VERSION]).map_err(io::Error::other)?;
        if bytes.len() > MAX_SIZE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too much is under way"));
        }
        replace(path, &bytes)
    }
}

/// Notes that the process ends in order: what is under way has made nothing crash.
pub fn mark_clean_exit() {
    // Without the directory there is nothing to be counted either.
    let mut options = OpenOptions::new();
    let _ = options.write(true).create_new(true).mode(0o600).open(directory().join(ENDED));
}

pub(super) fn directory() -> PathBuf {
    let named = std::env::var_os("RUNTIME_DIRECTORY").map(|folders| first(&folders));
    named.unwrap_or_else(|| PathBuf::from(FOLDER))
}

/// The first of the folders that the service manager names (systemd.exec(5)).
fn first(folders: &OsString) -> PathBuf {
    std::env::split_paths(folders).next().unwrap_or_default()
}

/// All that is under way, and whether the hypervisor may have been called for it.
fn keys(state: &SavedState) -> impl Iterator<Item = (Key, bool)> {
    let packets = state.waiting.iter().map(|packet| (Key::Packet(Position::of(packet)), false));
    packets.chain(state.intents.iter().map(|intent| (Key::of(intent), intent.called)))
}

/// What the last process left, or nothing.
fn recover(path: &Path) -> Kept {
    let nothing = Kept { state: SavedState::default(), suspects: Vec::new() };
    match read(path) {
        Ok(Some(kept)) => kept,
        Ok(None) => {
            let aside = path.with_extension("unread");
            let put = match rename(path, &aside) {
                Ok(()) => format!("it is kept as {}", shown(&aside)),
                Err(error) => format!("it cannot be kept: {error}"),
            };
            tracing::warn!(
                "{} is damaged or of another version; what was under way is forgotten, and {put}",
                shown(path)
            );
            nothing
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => nothing,
        Err(error) => {
            tracing::warn!("cannot read {}: {error}; what was under way is forgotten", shown(path));
            nothing
        }
    }
}

/// What the file says; `None` if that cannot be understood. Whatever it is, reading it takes no longer than
/// the largest file.
fn read(path: &Path) -> io::Result<Option<Kept>> {
    let file = config::open(path, config::Links::Refuse)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_SIZE).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    let Some((&VERSION, rest)) = bytes.split_first() else { return Ok(None) };
    if bytes.len() > MAX_SIZE {
        return Ok(None);
    }
    let kept = postcard::take_from_bytes::<Kept>(rest).ok();
    Ok(kept.and_then(|(kept, rest)| rest.is_empty().then_some(kept)))
}

/// Writes a new file, and puts it in the place of the old one, whatever that is.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?.write_all(bytes)?;
    rename(&new, path)
}

/// Takes out what may have made the last process crash, where a further crash cannot be counted: to try it again
/// could make the service crash for ever.
fn forget_uncounted(state: &mut SavedState) {
    let packets = std::mem::take(&mut state.waiting).len();
    let wakes = std::mem::take(&mut state.intents).len();
    if packets + wakes > 0 {
        tracing::error!(
            "{wakes} wakes and {packets} packets that were under way when the service crashed are given up: \
             whether they make it crash again could not be noted"
        );
    }
}

/// Takes out what was under way in too many crashes.
fn give_up(kept: &mut Kept) {
    let crashes: HashMap<&Key, u8> = kept.suspects.iter().map(|(key, crashes)| (key, *crashes)).collect();
    let is_suspect = |key: Key| crashes.get(&key).is_some_and(|crashes| *crashes >= MAX_CRASHES);
    let state = &mut kept.state;
    state.waiting.retain(|packet| {
        let suspect = is_suspect(Key::Packet(Position::of(packet)));
        if suspect {
            tracing::error!(
                mac = %packet.mac,
                "a packet for {} is given up: the service has crashed {MAX_CRASHES} times before it was decided",
                packet.mac
            );
        }
        !suspect
    });
    state.given_up = state.intents.extract_if(.., |intent| is_suspect(Key::of(intent))).collect();
}

#[cfg(test)]
impl StateFile {
    /// What is in the file now, read by nobody who would go on with it.
    pub(crate) fn read_saved(directory: &Path) -> SavedState {
        read(&directory.join(FILE)).unwrap().unwrap().state
    }
}

#[cfg(test)]
mod tests;
