//! One domain: its state, and the calls that change it.

use uuid::Uuid;
use virt::domain::{Domain, DomainPausedReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;
use wakevirt_host::sleep::{Abilities, SleepMode};
use wakevirt_libvirt::calls::{self, SleepTarget};

use super::{LibvirtError, failed};

/// The state of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Running.
    Running,
    /// Paused by a client.
    Paused,
    /// Suspended to RAM by the guest.
    Suspended,
    /// Shut off.
    Off,
    /// Shut off, with a managed save.
    Saved,
    /// Changing its state, for example while it is saved or shuts down.
    Changing,
    /// Any other state, such as paused because of an I/O error.
    Other,
}

/// A domain on a connection.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Its name.
    pub(crate) name: String,
    /// Its UUID.
    pub(crate) uuid: Uuid,
    domain: Domain,
}

impl Guest {
    pub(super) fn new(domain: Domain) -> Result<Self, LibvirtError> {
        let name = domain.name().map_err(failed("read a domain's name"))?;
        let uuid = domain.uuid().map_err(failed("read a domain's UUID"))?;
        Ok(Self { name, uuid, domain })
    }

    /// Its current state.
    pub(crate) fn state(&self) -> Result<State, LibvirtError> {
        let (state, reason) = self.domain.state().map_err(failed("read the domain's state"))?;
        Ok(match state {
            Enum::Known(DomainState::Shutoff) if self.domain.has_managed_save(0).unwrap_or(false) => {
                State::Saved
            }
            Enum::Known(state) => translate(state, reason),
            Enum::Unknown(_) => State::Other,
        })
    }

    /// How its definition allows it to sleep.
    pub(crate) fn abilities(&self) -> Result<Abilities, LibvirtError> {
        let xml = self.domain.xml_desc(0).map_err(failed("read the domain's definition"))?;
        Abilities::read(&xml).map_err(|error| LibvirtError {
            action: "parse the domain's definition",
            message: error.to_string(),
        })
    }

    /// Asks it to sleep in this way. It may sleep later, or not at all.
    pub(crate) fn ask(&self, how: SleepMode) -> Result<(), LibvirtError> {
        match how {
            SleepMode::Suspend => calls::pm_suspend(&self.domain, SleepTarget::Memory),
            SleepMode::Hibernate => calls::pm_suspend(&self.domain, SleepTarget::Disk),
            SleepMode::Pause => self.domain.suspend(),
            SleepMode::Save => self.domain.managed_save(0),
            SleepMode::Shutdown => self.domain.shutdown(),
        }
        .map_err(failed(match how {
            SleepMode::Suspend => "suspend the guest",
            SleepMode::Hibernate => "hibernate the guest",
            SleepMode::Pause => "pause the domain",
            SleepMode::Save => "save the domain",
            SleepMode::Shutdown => "shut down the guest",
        }))
    }

    /// Resumes a domain that a client has paused.
    pub(crate) fn resume(&self) -> Result<(), LibvirtError> {
        self.domain.resume().map_err(failed("resume the domain"))
    }

    /// Wakes a guest that is suspended to RAM.
    pub(crate) fn wake(&self) -> Result<(), LibvirtError> {
        self.domain.pm_wakeup(0).map_err(failed("wake the guest"))
    }

    /// Starts it; libvirt restores a managed save.
    pub(crate) fn start(&self) -> Result<(), LibvirtError> {
        self.domain.create_with_flags(0).map_err(failed("start the domain"))
    }

    /// Aborts a save that is in progress.
    pub(crate) fn abort_save(&self) -> Result<(), LibvirtError> {
        calls::abort_job(&self.domain).map_err(failed("abort the save"))
    }
}

const fn translate(state: DomainState, reason: Enum<DomainStateReason, i32>) -> State {
    match state {
        DomainState::Running | DomainState::Blocked => State::Running,
        DomainState::Paused => match reason {
            Enum::Known(DomainStateReason::Paused(Enum::Known(reason))) => paused(reason),
            _ => State::Other,
        },
        DomainState::PMSuspended => State::Suspended,
        DomainState::Shutoff => State::Off,
        DomainState::Shutdown => State::Changing,
        DomainState::Crashed | DomainState::NoState => State::Other,
    }
}

const fn paused(reason: DomainPausedReason) -> State {
    match reason {
        DomainPausedReason::User => State::Paused,
        DomainPausedReason::Save
        | DomainPausedReason::Dump
        | DomainPausedReason::Snapshot
        | DomainPausedReason::Migration
        | DomainPausedReason::StartingUp
        | DomainPausedReason::ShuttingDown => State::Changing,
        _ => State::Other,
    }
}
