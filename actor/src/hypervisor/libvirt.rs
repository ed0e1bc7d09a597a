//! libvirt: one connection to one of its daemons, or to a driver within this process.

use std::collections::{HashMap, HashSet};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use super::regime::Regime;
use super::{Change, Domain, Hypervisor, Id, Pause, State};
use crate::{Error, domain_xml};

/// Seconds between two signs of life that are asked of the daemon.
const KEEPALIVE_INTERVAL: i32 = 5;
/// Signs of life that may be missing before the connection is given up.
const KEEPALIVE_COUNT: u32 = 3;
/// What tells libvirt whether to start a daemon for a session.
const AUTOSTART: &str = "LIBVIRT_AUTOSTART";
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
    /// Handles of the domains that were met, which spare a wake the calls that look them up. A handle
    /// names a domain by its UUID and holds nothing in the daemon.
    handles: Mutex<HashMap<Uuid, virt::domain::Domain>>,
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
        let starts = Semaphore::new(SHARED_STARTS);
        Ok(Self { _subscription: subscription, connection, uri, handles: Mutex::default(), starts })
    }

    /// Logs what libvirt lets the actor do. It may block.
    pub(super) fn tell_rights(&self) {
        tracing::info!("rights at {}: {}", self.uri, Regime::of(&self.connection));
    }

    /// The handle of a domain, which may be gone by now.
    fn handle(&self, uuid: Uuid) -> Result<virt::domain::Domain, Error> {
        let known = self.handles().get(&uuid).cloned();
        known.map_or_else(|| self.look_up(uuid), Ok)
    }

    /// A fresh handle of a domain that there is.
    fn look_up(&self, uuid: Uuid) -> Result<virt::domain::Domain, Error> {
        let found = self.connection.lookup_domain_by_uuid(uuid).map_err(failed("look the domain up"));
        match &found {
            Ok(domain) => drop(self.handles().insert(uuid, domain.clone())),
            Err(_) => drop(self.handles().remove(&uuid)),
        }
        found
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<Uuid, virt::domain::Domain>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hypervisor for Libvirt {
    fn domains(&self) -> Result<Vec<Domain>, Error> {
        // Those that are saved first: one that is saved meanwhile is told as changed.
        let saved = self.connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE);
        let saved = saved.map(|saved| saved.iter().filter_map(|it| it.uuid().ok()).collect::<HashSet<_>>());
        let all = self.connection.list_all_domains(0).map_err(failed("list the domains"))?;
        let read = |domain: &virt::domain::Domain| {
            let read = read_or_log(&self.uri, domain)?;
            let fresh = saved.as_ref().is_ok_and(|saved| !saved.contains(&read.id.uuid));
            let read = read.restored_unless(fresh);
            self.handles().insert(read.id.uuid, domain.clone());
            Some(read)
        };
        Ok(all.iter().filter_map(read).collect())
    }

    fn domain(&self, uuid: Uuid) -> Result<Option<Domain>, Error> {
        match self.look_up(uuid) {
            Err(Error::Libvirt { code: Some(ErrorNumber::NoDomain), .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(domain) => match read(&self.uri, &domain) {
                // It went away between the two calls.
                Err(Error::Libvirt { code: Some(ErrorNumber::NoDomain), .. }) => Ok(None),
                result => {
                    let fresh = domain.has_managed_save(0).is_ok_and(|saved| !saved);
                    result.map(|read| Some(read.restored_unless(fresh)))
                }
            },
        }
    }

    fn state(&self, uuid: Uuid) -> Result<State, Error> {
        state(&self.handle(uuid)?)
    }

    fn start(&self, uuid: Uuid) -> Result<(), Error> {
        let shared = self.starts.try_acquire();
        let domain = if shared.is_ok() {
            self.handle(uuid)?
        } else {
            connect(&self.uri)?.lookup_domain_by_uuid(uuid).map_err(failed("look the domain up"))?
        };
        // virDomainCreate would ask the daemon for the domain's new ID afterwards, which nobody needs here.
        domain.create_with_flags(0).map_err(failed("start the domain"))
    }

    fn resume(&self, uuid: Uuid) -> Result<(), Error> {
        self.handle(uuid)?.resume().map_err(failed("resume the domain"))
    }

    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), Error> {
        self.handle(uuid)?.pm_wakeup(0).map_err(failed("wake the guest up"))
    }

    fn is_alive(&self) -> bool {
        self.connection.is_alive().unwrap_or(false)
    }
}

/// Makes sure that a connection to a session never starts a daemon of its own beside one that runs, or
/// will: `LIBVIRT_AUTOSTART`, which libvirt reads from the environment, is 0 unless it was set.
///
/// The environment of a running process cannot be changed safely, so the program starts itself again
/// in its own place, once. Call it before there is anything to lose.
///
/// # Errors
/// If it cannot be started again.
pub fn forbid_autostart(uris: &[String]) -> Result<(), Error> {
    let session = uris.iter().any(|uri| is_session(uri));
    if !session || std::env::var_os(AUTOSTART).is_some() {
        return Ok(());
    }
    let own = std::env::current_exe().map_err(Error::Start)?;
    Err(Error::Start(Command::new(own).args(std::env::args_os().skip(1)).env(AUTOSTART, "0").exec()))
}

/// Whether this is a URI of the user's own daemon: <https://libvirt.org/uri.html>.
fn is_session(uri: &str) -> bool {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    path.ends_with("/session")
}

fn connect(uri: &str) -> Result<Connect, Error> {
    let connection = Connect::open(Some(uri)).map_err(failed("connect"))?;
    // A daemon that hangs is noticed by nothing else. Drivers within this process have none.
    if let Err(error) = connection.set_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT) {
        tracing::debug!("{uri} has no keepalive: {}", error.message());
    }
    Ok(connection)
}

impl Domain {
    /// The same, where its next start is known to be a fresh one, or may restore what was saved.
    fn restored_unless(self, fresh: bool) -> Self {
        let state = if self.state == State::ShutOff && !fresh { State::Saved } else { self.state };
        Self { state, ..self }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_session() {
        for (uri, session) in [
            ("qemu:///session", true),
            ("qemu:///session?socket=/run/user/1000/libvirt/libvirt-sock", true),
            ("qemu+ssh://user@host/session", true),
            ("qemu:///system", false),
            ("test:///default", false),
            ("lxc:///system", false),
            ("qemu:///system?x=/session", false),
        ] {
            assert_eq!(is_session(uri), session, "{uri}");
        }
    }
}
