//! The state file, for the next process after a restart. It contains the position in the announcer's packets, the
//! packets without a decision, and the wakes that have not ended.
//!
//! The file is in the runtime directory. The service manager preserves that directory across restarts and empties it at
//! boot, when the times in the file become meaningless. Each save is one system call, because it delays a wake. It is not
//! synchronised to disk: a crash of the process loses nothing that was written, and a crash of the host also ends the
//! domains.

mod file;
mod lock;
mod slots;
mod store;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::model::{Called, Caller, Id, Packet, Position, Subject};
use crate::policy::rules::{Halted, Handling, Paused};

pub use file::mark_clean_exit;
pub use lock::lock;
pub use store::StateFile;

/// The content of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// For each packet up to this position, either the decision was made or the packet is one of `packets`.
    pub position: Position,
    /// Packets without a decision.
    pub packets: Vec<Packet>,
    /// Wakes that are running or held.
    pub wakes: Vec<SavedWake>,
    /// The hypervisors whose domains were started by `autostart` since boot.
    pub autostarted: Vec<String>,
    /// Packets captured before this time are ignored: an earlier process, whose state is lost, may have handled them.
    /// CLOCK_BOOTTIME, in microseconds; 0 if no state was lost since boot.
    pub not_before: u64,
    /// Wakes that were pending during two crashes. They are not tried again.
    #[serde(skip)]
    pub abandoned: Vec<SavedWake>,
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
    leave_paused: bool,
    leave_halted: bool,
    /// The start of the time that counts towards `hold`: CLOCK_BOOTTIME, in microseconds.
    pub since: u64,
    /// Whether the hypervisor may have been called for it.
    pub called: Called,
}

impl SavedWake {
    /// A wake of this domain.
    #[must_use]
    pub fn new(id: &Id, subject: &Subject, handling: Handling, since: u64, called: Called) -> Self {
        Self {
            connection: id.connection.to_string(),
            uuid: id.uuid.as_u128(),
            name: subject.domain.as_ref().map(|(_, name)| name.clone()).unwrap_or_default(),
            mac: subject.mac,
            rule: subject.rule.clone(),
            packet: subject.packet.clone(),
            caller: subject.caller,
            leave_paused: handling.paused == Paused::Leave,
            leave_halted: handling.halted == Halted::Leave,
            since,
            called,
        }
    }

    /// The domain and the subject of the wake.
    #[must_use]
    pub fn subject(self) -> (Id, Subject) {
        let id = Id { connection: self.connection.into(), uuid: Uuid::from_u128(self.uuid) };
        let domain = Some((id.clone(), self.name));
        (id, Subject { mac: self.mac, domain, rule: self.rule, packet: self.packet, caller: self.caller })
    }

    /// How paused and halted domains are handled.
    #[must_use]
    pub const fn handling(&self) -> Handling {
        Handling {
            paused: if self.leave_paused { Paused::Leave } else { Paused::Resume },
            halted: if self.leave_halted { Halted::Leave } else { Halted::Start },
        }
    }
}
