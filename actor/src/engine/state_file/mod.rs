//! What is to outlive the process: how far the packets are known, and the wakes that have not ended.
//!
//! It is a small file in the runtime directory, which the service manager preserves over restarts and
//! which ends with the boot, as the times in it do. It is written to a new file that takes the old
//! one's place: there is always a whole one. It is not synchronised, because a crash of the process
//! loses nothing that was written, and one of the host ends the domains as well.

mod lock;
mod store;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::model::{Caller, Id, Packet, Position, Subject};
use crate::policy::rules::Paused;

pub use lock::lock;
pub use store::{StateFile, mark_clean_exit};

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// All packets up to there were decided about, or are among these:
    pub position: Position,
    /// Packets that were not decided about yet.
    pub waiting: Vec<Packet>,
    /// Wakes that were begun, or wait for their hypervisor, and have not ended.
    pub intents: Vec<SavedWake>,
    /// Those that were under way in two crashes, and are not tried again.
    #[serde(skip)]
    pub given_up: Vec<SavedWake>,
}

/// A wake that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWake {
    connection: String,
    uuid: u128,
    name: String,
    mac: Option<MacAddr>,
    rule: Option<String>,
    packet: Option<Packet>,
    caller: Option<Caller>,
    leave: bool,
    /// When it was asked for, or was last known to be under way: CLOCK_BOOTTIME, in microseconds.
    pub since: u64,
    /// Whether the hypervisor may have been called for it.
    pub called: bool,
}

impl SavedWake {
    /// The intent to wake this domain.
    #[must_use]
    pub fn new(id: &Id, subject: &Subject, paused: Paused, since: u64, called: bool) -> Self {
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
            called,
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
