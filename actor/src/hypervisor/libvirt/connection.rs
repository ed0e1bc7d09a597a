//! libvirt: one connection to one of its daemons, or to a driver within this process.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use uuid::Uuid;
use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use virt::sys;

use super::events::{self, Listener, Subscription};
use super::read::{read, read_or_log, state};
use super::regime::Regime;
use crate::Error;
use crate::hypervisor::Session;
use crate::model::{Domain, State};

/// Seconds between two pings that ask the daemon for a sign of life.
const KEEPALIVE_INTERVAL: i32 = 5;
/// Pings without an answer before the connection is given up.
const KEEPALIVE_COUNT: u32 = 3;
/// What tells libvirt whether to start a daemon for a session.
const AUTOSTART: &str = "LIBVIRT_AUTOSTART";
/// Handles of domains that are kept at most; beyond that all are forgotten and looked up again.
const MOST_HANDLES: usize = 65_536;

/// A connection to libvirt, for one thread: no other makes calls on it.
///
/// Before version 10.4 libvirt's client uses memory that was freed where two threads have calls on one
/// connection and the daemon hangs (CVE-2024-4418). libvirt's event loop may ping the daemon while a call
/// is out: that interrupts the call's own wait, which goes on with the same memory.
#[derive(Debug)]
pub(super) struct Libvirt {
    // Dropped first: what is registered keeps the connection open.
    _subscription: Option<Subscription>,
    /// Handles of domains, which spare a wake the calls that look them up. A handle names a domain by its
    /// UUID and holds nothing in the daemon.
    handles: RefCell<HashMap<Uuid, virt::domain::Domain>>,
    connection: Connect,
    uri: Arc<str>,
}

impl Libvirt {
    /// Connects, and tells the listener from then on what changes. It may block for as long as the daemon
    /// takes. A daemon that hangs later is noticed by pings, also while no call is out.
    ///
    /// # Errors
    /// If there is no connection, or it tells no events.
    pub(super) fn open_to_follow(uri: &Arc<str>, listener: &Arc<dyn Listener>) -> Result<Self, Error> {
        events::start_loop().map_err(failed("start libvirt's event loop"))?;
        let connection = Connect::open(Some(uri)).map_err(failed("connect"))?;
        if !keep_alive(&connection) {
            tracing::debug!("{uri} has no keepalive");
        }
        let subscription =
            events::subscribe(&connection, listener).map_err(failed("subscribe to libvirt's events"))?;
        Ok(Self::new(uri, connection, Some(subscription)))
    }

    /// Connects, and tells the listener the end of the connection. Nothing pings the daemon until
    /// [`keep_alive`] is called. It may block for as long as the daemon takes.
    ///
    /// # Errors
    /// If there is no connection.
    pub(super) fn open_to_wake(uri: &Arc<str>, listener: &Arc<dyn Listener>) -> Result<Self, Error> {
        let connection = Connect::open(Some(uri)).map_err(failed("connect"))?;
        let subscription =
            events::watch(&connection, listener).map_err(failed("watch libvirt's connection"))?;
        Ok(Self::new(uri, connection, Some(subscription)))
    }

    /// Another use of a connection to a driver within this process.
    pub(super) fn sharing(uri: &Arc<str>, connection: Connect) -> Self {
        Self::new(uri, connection, None)
    }

    fn new(uri: &Arc<str>, connection: Connect, subscription: Option<Subscription>) -> Self {
        let handles = RefCell::default();
        Self { _subscription: subscription, handles, connection, uri: Arc::clone(uri) }
    }

    /// The connection, if it leads to a driver within this process. Such a driver has no client that two
    /// threads could break, and may keep its domains in the connection itself.
    pub(super) fn shareable(&self) -> Option<Connect> {
        // Where there is a daemon, its client has pings, or knows that the daemon has none.
        (!keep_alive(&self.connection)).then(|| self.connection.clone())
    }

    /// The same connection, to be pinged from elsewhere.
    pub(super) fn connection(&self) -> Connect {
        self.connection.clone()
    }

    /// Logs what libvirt lets the actor do. It may block.
    pub(super) fn tell_rights(&self) {
        tracing::info!("rights at {}: {}", self.uri, Regime::of(&self.connection));
    }

    /// All domains. One that cannot be read is logged and left out.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(super) fn domains(&self) -> Result<Vec<Domain>, Error> {
        // Those that are saved first: one that is saved meanwhile is told as changed.
        let saved = self.connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE);
        let saved = saved.map(|saved| saved.iter().filter_map(|it| it.uuid().ok()).collect::<HashSet<_>>());
        let read = |domain: &virt::domain::Domain| {
            let read = read_or_log(&self.uri, domain)?;
            let fresh = saved.as_ref().is_ok_and(|saved| !saved.contains(&read.id.uuid));
            Some(read.restored_unless(fresh))
        };
        Ok(self.all()?.iter().filter_map(read).collect())
    }

    /// One domain; `None` if there is none any more.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn domain(&self, uuid: Uuid) -> Result<Option<Domain>, Error> {
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

    /// Learns the handles of all domains, so that a wake need not look its domain up.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(super) fn learn_handles(&self) -> Result<(), Error> {
        let all = self.all()?.into_iter().filter_map(|domain| Some((domain.uuid().ok()?, domain)));
        self.handles.replace(all.take(MOST_HANDLES).collect());
        Ok(())
    }

    fn all(&self) -> Result<Vec<virt::domain::Domain>, Error> {
        self.connection.list_all_domains(0).map_err(failed("list the domains"))
    }

    fn look_up(&self, uuid: Uuid) -> Result<virt::domain::Domain, Error> {
        self.connection.lookup_domain_by_uuid(uuid).map_err(failed("look the domain up"))
    }

    /// The handle of a domain, which may be gone by now.
    fn handle(&self, uuid: Uuid) -> Result<virt::domain::Domain, Error> {
        if let Some(known) = self.handles.borrow().get(&uuid) {
            return Ok(known.clone());
        }
        let found = self.look_up(uuid)?;
        let mut handles = self.handles.borrow_mut();
        if handles.len() >= MOST_HANDLES {
            handles.clear();
        }
        handles.insert(uuid, found.clone());
        Ok(found)
    }
}

impl Session for Libvirt {
    fn state(&self, uuid: Uuid) -> Result<State, Error> {
        let domain = self.handle(uuid)?;
        let state = state(&domain)?;
        // libvirt calls it shut off either way. Only the log is the poorer if this fails.
        let is_saved = || domain.has_managed_save(0).unwrap_or(false);
        Ok(if state == State::ShutOff && is_saved() { State::Saved } else { state })
    }

    fn start(&self, uuid: Uuid) -> Result<(), Error> {
        // virDomainCreate would ask the daemon for the domain's new ID afterwards, which nobody needs here.
        self.handle(uuid)?.create_with_flags(0).map_err(failed("start the domain"))
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

/// Pings the daemon from now on, so that one that hangs is noticed; false if the connection has no daemon.
/// libvirt cannot start this a second time after it was stopped (`virKeepAliveStart` in its virkeepalive.c).
///
/// This is no call to the daemon, and another thread may do it while a call is out.
pub(super) fn keep_alive(connection: &Connect) -> bool {
    let result = connection.set_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT);
    !result.is_err_and(|error| error.code() == Enum::Known(ErrorNumber::NoSupport))
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

pub(super) fn failed(doing: &'static str) -> impl Fn(virt::error::Error) -> Error {
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
