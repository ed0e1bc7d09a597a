//! libvirt: one connection to one of its daemons, or to a driver within this process.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::{DomainPausedReason, DomainShutoffReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use virt::sys;
use wakevirt_service::logs::quoted;

use super::events::{self, Subscription};
use super::{Change, Domain, Hypervisor, Id, Pause, State};
use crate::{Error, domain_xml};

/// Seconds between two signs of life that are asked of the daemon.
const KEEPALIVE_INTERVAL: i32 = 5;
/// Signs of life that may be missing before the connection is given up.
const KEEPALIVE_COUNT: u32 = 3;
/// Starts that share the connection. A daemon serves five requests of one connection at a time
/// (`max_client_requests` in libvirtd.conf), signs of life included: a slow start more, and nothing
/// else would be answered.
const SHARED_STARTS: usize = 3;

/// A connection to libvirt.
#[derive(Debug)]
pub struct Libvirt {
    // Dropped first: what is registered keeps the connection open.
    _subscription: Subscription,
    connection: Connect,
    uri: Arc<str>,
    starts: Semaphore,
}

impl Libvirt {
    /// Connects, and tells `changes` from then on what changes. It may block for as long as the
    /// daemon takes.
    ///
    /// # Errors
    /// If there is no connection to be had, or it tells no events.
    pub fn open(uri: Arc<str>, changes: &UnboundedSender<Change>) -> Result<Self, Error> {
        events::start_loop().map_err(failed("start libvirt's event loop"))?;
        let connection = connect(&uri)?;
        let subscription =
            events::subscribe(&connection, changes).map_err(failed("subscribe to libvirt's events"))?;
        Ok(Self { _subscription: subscription, connection, uri, starts: Semaphore::new(SHARED_STARTS) })
    }

    fn look_up(&self, uuid: Uuid) -> Result<virt::domain::Domain, virt::error::Error> {
        self.connection.lookup_domain_by_uuid(uuid)
    }
}

impl Hypervisor for Libvirt {
    fn domains(&self) -> Result<Vec<Domain>, Error> {
        let all = self.connection.list_all_domains(0).map_err(failed("list the domains"))?;
        Ok(all.iter().filter_map(|domain| read_or_log(&self.uri, domain)).collect())
    }

    fn domain(&self, uuid: Uuid) -> Result<Option<Domain>, Error> {
        match self.look_up(uuid).map_err(failed("look a domain up")) {
            Err(Error::Libvirt { code: Some(ErrorNumber::NoDomain), .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(domain) => match read(&self.uri, &domain) {
                // It went away between the two calls.
                Err(Error::Libvirt { code: Some(ErrorNumber::NoDomain), .. }) => Ok(None),
                result => result.map(Some),
            },
        }
    }

    fn state(&self, uuid: Uuid) -> Result<State, Error> {
        state(&self.look_up(uuid).map_err(failed("look the domain up"))?)
    }

    fn start(&self, uuid: Uuid) -> Result<(), Error> {
        let shared = self.starts.try_acquire();
        let connection = if shared.is_ok() { self.connection.clone() } else { connect(&self.uri)? };
        let domain = connection.lookup_domain_by_uuid(uuid).map_err(failed("look the domain up"))?;
        domain.create().map_err(failed("start the domain"))
    }

    fn resume(&self, uuid: Uuid) -> Result<(), Error> {
        let domain = self.look_up(uuid).map_err(failed("look the domain up"))?;
        domain.resume().map_err(failed("resume the domain"))
    }

    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), Error> {
        let domain = self.look_up(uuid).map_err(failed("look the domain up"))?;
        domain.pm_wakeup(0).map_err(failed("wake the guest up"))
    }

    fn is_alive(&self) -> bool {
        self.connection.is_alive().unwrap_or(false)
    }
}

fn connect(uri: &str) -> Result<Connect, Error> {
    let connection = Connect::open(Some(uri)).map_err(failed("connect"))?;
    // A daemon that hangs is noticed by nothing else. Drivers within this process have none.
    if let Err(error) = connection.set_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT) {
        tracing::debug!("{uri} has no keepalive: {}", error.message());
    }
    Ok(connection)
}

fn read_or_log(uri: &Arc<str>, domain: &virt::domain::Domain) -> Option<Domain> {
    read(uri, domain)
        .inspect_err(|error| {
            let name = domain.name().unwrap_or_default();
            tracing::warn!("domain {} cannot be woken, it cannot be read: {error}", quoted(&name));
        })
        .ok()
}

fn read(uri: &Arc<str>, domain: &virt::domain::Domain) -> Result<Domain, Error> {
    let uuid = domain.uuid().map_err(failed("read a domain's UUID"))?;
    let name = domain.name().map_err(failed("read a domain's name"))?;
    let state = state(domain)?;
    // What it opts in to is what will be started.
    let domain_xml::Definition { mut macs, opt_in } = definition(domain, sys::VIR_DOMAIN_XML_INACTIVE)?;
    // While it is off both definitions are one.
    if !matches!(state, State::ShutOff | State::MigratedAway) {
        macs.append(&mut definition(domain, 0)?.macs);
    }
    let id = Id { connection: Arc::clone(uri), uuid };
    Ok(Domain { id, name, macs, opt_in, state })
}

fn definition(
    domain: &virt::domain::Domain,
    flags: sys::virDomainXMLFlags,
) -> Result<domain_xml::Definition, Error> {
    let xml = domain.xml_desc(flags).map_err(failed("read the domain's definition"))?;
    domain_xml::read(&xml).map_err(Error::DomainXml)
}

fn state(domain: &virt::domain::Domain) -> Result<State, Error> {
    let (state, reason) = domain.state().map_err(failed("read the domain's state"))?;
    match state {
        Enum::Known(state) => Ok(match translate(state, reason) {
            State::Paused(Pause::Migration) if has_no_job(domain) => State::Paused(Pause::Restored),
            state => state,
        }),
        // The crate hides the error of the call, and leaves the -1 that it began with.
        Enum::Unknown(sys::virDomainState::MAX) => {
            Err(failed("read the domain's state")(virt::error::Error::last_error()))
        }
        Enum::Unknown(_) => Ok(State::Unknown),
    }
}

/// Whether libvirt is known to do nothing with the domain. The destination of a migration does not tell.
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

fn failed(doing: &'static str) -> impl Fn(virt::error::Error) -> Error {
    move |error| {
        let code = match error.code() {
            Enum::Known(code) => Some(code),
            Enum::Unknown(_) => None,
        };
        Error::Libvirt { doing, code, message: error.message().to_owned() }
    }
}
