//! What is to outlive the process: how far the packets are known, and the wakes that have not ended.
//!
//! It is a small file in the runtime directory, which the service manager preserves over restarts and
//! which ends with the boot, as the times in it do. It is written to a new file that takes the old
//! one's place: there is always a whole one. It is not synchronised, because a crash of the process
//! loses nothing that was written, and one of the host ends the domains as well.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::caller::Caller;
use crate::hypervisor::Id;
use crate::listen::Packet;
use crate::merge::Position;
use crate::report::Subject;
use crate::rules::Paused;

/// Where it is where the service manager names no other place.
pub(crate) const FOLDER: &str = "/run/wakevirt-actor";
const FILE: &str = "state";
/// The version of the format, which is the file's first byte.
const VERSION: u8 = 4;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// All packets up to there were decided about, or are among these:
    pub position: Position,
    /// Packets that were not decided about yet.
    pub waiting: Vec<Packet>,
    /// Wakes that were begun, or wait for their hypervisor, and have not ended.
    pub intents: Vec<Intent>,
}

/// A wake that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    connection: String,
    uuid: u128,
    name: String,
    mac: Option<MacAddr>,
    rule: Option<String>,
    packet: Option<Packet>,
    caller: Option<Caller>,
    leave: bool,
    /// When it was asked for: CLOCK_BOOTTIME, in microseconds.
    pub since: u64,
}

impl Intent {
    /// The intent to wake this domain.
    #[must_use]
    pub fn new(id: &Id, subject: &Subject, paused: Paused, since: u64) -> Self {
        Self {
            connection: id.connection.to_string(),
            uuid: id.uuid.as_u128(),
            name: subject.domain.as_ref().map(|(_, name)| name.clone()).unwrap_or_default(),
            mac: subject.mac,
            rule: subject.rule.clone(),
            packet: subject.packet.clone(),
            caller: subject.caller,
            leave: paused == Paused::Leave,
            since,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn subject(self) -> (Id, Subject) {
        let id = Id { connection: self.connection.into(), uuid: Uuid::from_u128(self.uuid) };
        let domain = Some((id.clone(), self.name));
        (id, Subject { mac: self.mac, domain, rule: self.rule, packet: self.packet, caller: self.caller })
    }

    /// What is done with a domain that somebody has paused.
    #[must_use]
    pub const fn paused(&self) -> Paused {
        if self.leave { Paused::Leave } else { Paused::Resume }
    }
}

/// The file.
#[derive(Debug, Default)]
pub struct Memory {
    /// `None` if there is no place for it.
    path: Option<PathBuf>,
    failed: bool,
}

impl Memory {
    /// The file in the runtime directory, and what is in it. Without one, nothing is remembered.
    #[must_use]
    pub fn open() -> (Self, State) {
        let named = std::env::var_os("RUNTIME_DIRECTORY").map(|folders| first(&folders));
        Self::at(&named.unwrap_or_else(|| PathBuf::from(FOLDER)))
    }

    fn at(folder: &Path) -> (Self, State) {
        let path = folder.join(FILE);
        let state = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes).unwrap_or_else(|| {
                tracing::warn!("{} cannot be read; what was under way is forgotten", path.display());
                State::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => {
                tracing::warn!("cannot read {}: {error}", path.display());
                State::default()
            }
        };
        if let Err(error) = write(&path, &state) {
            tracing::warn!(
                "cannot write to {}: {error}; what is under way when the service ends is forgotten, and so are \
                 packets that come while it is away; create the folder for the service's user, or let the service manager do so (RuntimeDirectory=)",
                folder.display()
            );
            return (Self::default(), state);
        }
        (Self { path: Some(path), failed: false }, state)
    }

    /// Whether anything is remembered.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    /// Remembers this. An error is logged, once until it is over.
    pub fn keep(&mut self, state: &State) {
        let Some(path) = &self.path else { return };
        let result = write(path, state);
        if let (Err(error), false) = (&result, self.failed) {
            tracing::warn!("cannot write {}: {error}; a restart may lose a wake", path.display());
        }
        self.failed = result.is_err();
    }
}

/// The first of the folders that the service manager names (systemd.exec(5)).
fn first(folders: &OsString) -> PathBuf {
    std::env::split_paths(folders).next().unwrap_or_default()
}

fn read(bytes: &[u8]) -> Option<State> {
    let (version, rest) = bytes.split_first()?;
    (*version == VERSION).then(|| postcard::from_bytes(rest).ok()).flatten()
}

fn write(path: &Path, state: &State) -> io::Result<()> {
    let bytes = postcard::to_extend(state, vec![VERSION]).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
impl Memory {
    pub(crate) fn in_folder(folder: &Path) -> (Self, State) {
        Self::at(folder)
    }
}

#[cfg(test)]
mod tests {
    use wakevirt_protocol::bus::PacketDetails;

    use super::*;
    use crate::caller::Authority;

    fn state() -> State {
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
        let packet = Packet { mac: MacAddr::new([2, 0, 0, 0, 0, 1]), sequence: 7, details };
        let id = Id { connection: "test:///".into(), uuid: Uuid::from_u128(9) };
        let subject = Subject {
            mac: Some(packet.mac),
            domain: Some((id.clone(), "win11".to_owned())),
            rule: Some("mac = \"*\"".to_owned()),
            packet: Some(packet.clone()),
            caller: Some(Caller { user: 1000, by: Authority::Polkit }),
        };
        let intent = Intent::new(&id, &subject, Paused::Leave, 5);
        assert_eq!(intent.paused(), Paused::Leave);
        assert_eq!(intent.clone().subject(), (id, subject));
        State { position: Position::of(&packet), waiting: vec![packet], intents: vec![intent] }
    }

    #[test]
    fn remembers_what_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut memory, empty) = Memory::at(folder.path());
        assert_eq!(empty, State::default());
        memory.keep(&state());
        assert_eq!(Memory::at(folder.path()).1, state());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn does_without_a_file_and_with_one_that_is_broken() {
        let (memory, state) = Memory::at(Path::new("/no/such/folder"));
        assert!(!memory.is_kept() && state == State::default());
        let folder = tempfile::tempdir().unwrap();
        for bytes in [&b""[..], b"\x03", b"\x01\xff\xff\xff\xff\xff"] {
            std::fs::write(folder.path().join(FILE), bytes).unwrap();
            let (memory, state) = Memory::at(folder.path());
            assert!(memory.is_kept() && state == State::default());
        }
    }
}
