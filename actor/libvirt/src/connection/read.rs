//! Reads the definition and the state of a libvirt domain.

use std::sync::Arc;

use virt::domain::{DomainPausedReason, DomainShutoffReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;
use virt::sys;
use wakevirt_service::logs::{kind, quoted};

use super::domain_xml;
use super::error::failed;
use wakevirt_actor::hypervisor::HypervisorError;
use wakevirt_actor::model::{Domain, Id, Labels, Pause, State, Stop};

/// Returns the domain, with the `Saved` state if its next start restores a saved state.
pub(super) fn with_saved_state(domain: Domain, is_saved: bool) -> Domain {
    let state = if domain.state == State::ShutOff && is_saved { State::Saved } else { domain.state };
    Domain { state, ..domain }
}

pub(super) fn read_or_log(uri: &Arc<str>, domain: &virt::domain::Domain) -> Option<Domain> {
    read(uri, domain)
        .inspect_err(|error| {
            let name = domain.name().unwrap_or_default();
            tracing::warn!(
                MESSAGE_ID = kind::DOMAIN_UNREADABLE,
                WAKEVIRT_DOMAIN = name,
                WAKEVIRT_CONNECTION = &**uri,
                "domain {} cannot be read, and therefore cannot be woken: {error}",
                quoted(&name)
            );
        })
        .ok()
}

pub(super) fn read(uri: &Arc<str>, domain: &virt::domain::Domain) -> Result<Domain, HypervisorError> {
    let uuid = domain.uuid().map_err(failed("read a domain's UUID"))?;
    let name = domain.name().map_err(failed("read a domain's name"))?;
    let (state, stop) = state_and_stop(domain)?;
    // The opt-in of the inactive definition applies: a start uses that definition.
    let domain_xml::Definition { mut macs, opt_in } = definition(domain, sys::VIR_DOMAIN_XML_INACTIVE)?;
    // While the domain is off, both definitions are the same.
    if !matches!(state, State::ShutOff | State::MigratedAway) {
        macs.append(&mut definition(domain, 0)?.macs);
    }
    let id = Id { connection: Arc::clone(uri), uuid };
    let macs = macs.into_iter().collect();
    Ok(Domain { id, name, macs, opt_in, labels: Labels::default(), state, stop })
}

fn definition(
    domain: &virt::domain::Domain,
    flags: sys::virDomainXMLFlags,
) -> Result<domain_xml::Definition, HypervisorError> {
    let xml = domain.xml_desc(flags).map_err(failed("read the domain's definition"))?;
    domain_xml::read(&xml).map_err(|error| HypervisorError::Definition(error.to_string()))
}

pub(super) fn state(domain: &virt::domain::Domain) -> Result<State, HypervisorError> {
    state_and_stop(domain).map(|(state, _)| state)
}

/// Why the domain was switched off; [`Stop::Unknown`] if it is not off.
pub(super) fn last_stop(domain: &virt::domain::Domain) -> Result<Stop, HypervisorError> {
    state_and_stop(domain).map(|(_, stop)| stop)
}

fn state_and_stop(domain: &virt::domain::Domain) -> Result<(State, Stop), HypervisorError> {
    let (state, reason) = domain.state().map_err(failed("read the domain's state"))?;
    match state {
        Enum::Known(state) => Ok(match translate(state, reason) {
            State::Paused(Pause::Migration) if has_no_job(domain) => {
                (State::Paused(Pause::Restored), Stop::Unknown)
            }
            state => (state, stop(reason)),
        }),
        // The virt crate hides the error of the call, and returns its initial value, -1.
        Enum::Unknown(sys::virDomainState::MAX) => {
            Err(failed("read the domain's state")(virt::error::Error::last_error()))
        }
        Enum::Unknown(_) => Ok((State::Unknown, Stop::Unknown)),
    }
}

/// Whether the domain is known to have no job. The destination of a migration does not report its job.
fn has_no_job(domain: &virt::domain::Domain) -> bool {
    domain.job_info().is_ok_and(|job| u32::try_from(job.r#type) == Ok(sys::VIR_DOMAIN_JOB_NONE))
}

fn translate(state: DomainState, reason: Enum<DomainStateReason, i32>) -> State {
    match (state, reason) {
        (DomainState::Running | DomainState::Blocked, _) => State::Running,
        (
            DomainState::Shutoff,
            Enum::Known(DomainStateReason::Shutoff(Enum::Known(DomainShutoffReason::Migrated))),
        ) => State::MigratedAway,
        (DomainState::Shutoff, _) => State::ShutOff,
        (DomainState::Paused, Enum::Known(DomainStateReason::Paused(Enum::Known(reason)))) => {
            State::Paused(pause(reason))
        }
        (DomainState::Paused, _) => State::Paused(Pause::Unknown),
        (DomainState::Shutdown, _) => State::ShuttingDown,
        (DomainState::Crashed, _) => State::Crashed,
        (DomainState::PMSuspended, _) => State::Suspended,
        (DomainState::NoState, _) => State::Unknown,
    }
}

const fn stop(reason: Enum<DomainStateReason, i32>) -> Stop {
    let Enum::Known(DomainStateReason::Shutoff(Enum::Known(reason))) = reason else { return Stop::Unknown };
    match reason {
        DomainShutoffReason::Shutdown => Stop::Shutdown,
        DomainShutoffReason::Destroyed => Stop::Destroyed,
        DomainShutoffReason::Crashed => Stop::Crashed,
        DomainShutoffReason::Saved => Stop::Saved,
        DomainShutoffReason::Daemon => Stop::Lost,
        DomainShutoffReason::Failed => Stop::Failed,
        // After these, the domain need not have run.
        DomainShutoffReason::Unknown | DomainShutoffReason::Migrated | DomainShutoffReason::FromSnapshot => {
            Stop::Unknown
        }
    }
}

const fn pause(reason: DomainPausedReason) -> Pause {
    match reason {
        DomainPausedReason::Unknown => Pause::Unknown,
        DomainPausedReason::User => Pause::User,
        DomainPausedReason::Migration => Pause::Migration,
        DomainPausedReason::Save => Pause::Save,
        DomainPausedReason::Dump => Pause::Dump,
        DomainPausedReason::IOError => Pause::IoError,
        DomainPausedReason::Watchdog => Pause::Watchdog,
        DomainPausedReason::FromSnapshot => Pause::FromSnapshot,
        DomainPausedReason::ShuttingDown => Pause::ShuttingDown,
        DomainPausedReason::Snapshot => Pause::Snapshot,
        DomainPausedReason::Crashed => Pause::Crashed,
        DomainPausedReason::StartingUp => Pause::StartingUp,
        DomainPausedReason::PostCopy => Pause::PostCopy,
        DomainPausedReason::PostCopyFailed => Pause::PostCopyFailed,
        DomainPausedReason::APIError => Pause::ApiError,
    }
}
