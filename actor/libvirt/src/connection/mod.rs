//! One connection to a libvirt daemon, or to a driver inside this process.

mod domain_xml;
mod error;
mod permissions;
mod read;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;
use virt::connect::Connect;
use virt::sys;

use wakevirt_actor::hypervisor::HypervisorError;
use wakevirt_actor::hypervisor::session::Session;
use wakevirt_actor::model::{Domain, State, Stop};
use wakevirt_libvirt::events::{self, Listener, Subscription};
use wakevirt_libvirt::keepalive;
use wakevirt_service::logs::kind;

use error::failed;
use permissions::Permissions;
use read::{last_stop, read, read_or_log, state, with_saved_state};

/// The maximum number of domain handles that a connection caches. Beyond that, the cache is cleared.
const MAX_HANDLES: usize = 65_536;

/// A connection to libvirt that a single thread uses (see [`wakevirt_libvirt`]). libvirt's event loop can send keepalive messages during a call: that interrupts the
/// call while it waits, but the call continues with the same memory.
#[derive(Debug)]
pub(super) struct Connection {
    // Dropped first: a registration keeps the connection open.
    _subscription: Option<Subscription>,
    /// Cached domain handles, so that a wake does not need to look up its domain. A handle contains the domain's UUID
    /// and uses no resources of the daemon.
    handles: RefCell<BTreeMap<Uuid, virt::domain::Domain>>,
    connection: Connect,
    uri: Arc<str>,
}

impl Connection {
    /// Connects, and reports changes to the listener from then on. This can block for as long as the daemon takes.
    /// Keepalive is on, so a daemon that hangs later is also detected between calls.
    ///
    /// # Errors
    /// If the connection cannot be opened, or does not support events.
    pub(super) fn open_to_follow(
        uri: &Arc<str>,
        listener: &Arc<dyn Listener>,
    ) -> Result<Self, HypervisorError> {
        events::start_loop().map_err(failed("start libvirt's event loop"))?;
        let connection = Connect::open(Some(uri)).map_err(failed("connect"))?;
        if !keepalive::start(&connection) {
            tracing::debug!("{uri} does not support keepalive");
        }
        let subscription =
            events::subscribe(&connection, listener).map_err(failed("subscribe to libvirt's events"))?;
        Ok(Self::new(uri, connection, Some(subscription)))
    }

    /// Connects, and reports the end of the connection to the listener. Keepalive is off until [`keepalive::start`] is
    /// called. This can block for as long as the daemon takes.
    ///
    /// # Errors
    /// If the connection cannot be opened.
    pub(super) fn open_to_wake(
        uri: &Arc<str>,
        listener: &Arc<dyn Listener>,
    ) -> Result<Self, HypervisorError> {
        let connection = Connect::open(Some(uri)).map_err(failed("connect"))?;
        let subscription =
            events::watch(&connection, listener).map_err(failed("watch the connection to libvirt"))?;
        Ok(Self::new(uri, connection, Some(subscription)))
    }

    /// Wraps a shared connection to a driver inside this process.
    pub(super) fn sharing(uri: &Arc<str>, connection: Connect) -> Self {
        Self::new(uri, connection, None)
    }

    fn new(uri: &Arc<str>, connection: Connect, subscription: Option<Subscription>) -> Self {
        let handles = RefCell::default();
        Self { _subscription: subscription, handles, connection, uri: Arc::clone(uri) }
    }

    /// The connection, if its driver runs inside this process. Such a driver has no client that two threads could
    /// corrupt, and can store its domains in the connection itself.
    pub(super) fn shareable(&self) -> Option<Connect> {
        // A connection to a daemon has keepalive, or knows that the daemon does not support it.
        (!keepalive::start(&self.connection)).then(|| self.connection.clone())
    }

    /// The connection, for a thread that starts its keepalive.
    pub(super) fn connection(&self) -> Connect {
        self.connection.clone()
    }

    /// Logs what libvirt allows the actor to do. This can block.
    pub(super) fn log_permissions(&self) {
        tracing::info!(
            MESSAGE_ID = kind::HYPERVISOR_PERMISSIONS,
            WAKEVIRT_CONNECTION = &*self.uri,
            "permissions on {}: {}",
            self.uri,
            Permissions::of(&self.connection)
        );
    }

    /// All domains. A domain that cannot be read is logged and omitted.
    ///
    /// # Errors
    /// If the domains cannot be listed.
    pub(super) fn domains(&self) -> Result<Vec<Domain>, HypervisorError> {
        // The saved domains are listed first: a domain that is saved between the two calls is then reported as changed.
        let saved = self.connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE);
        let saved = saved.map(|saved| saved.iter().filter_map(|it| it.uuid().ok()).collect::<HashSet<_>>());
        let read = |domain: virt::domain::Domain| {
            let read = read_or_log(&self.uri, &domain)?;
            let is_saved = !saved.as_ref().is_ok_and(|saved| !saved.contains(&read.id.uuid));
            Some(with_saved_state(read, is_saved))
        };
        let handles = self.all()?;
        let mut domains = Vec::with_capacity(handles.len());
        // Frees each handle once its domain is read, so that the next domain can use the memory.
        domains.extend(handles.into_iter().filter_map(read));
        Ok(domains)
    }

    /// One domain; `None` if it no longer exists.
    ///
    /// # Errors
    /// If the domain cannot be read.
    pub(super) fn domain(&self, uuid: Uuid) -> Result<Option<Domain>, HypervisorError> {
        match self.look_up(uuid) {
            Err(HypervisorError::NoDomain { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(domain) => match read(&self.uri, &domain) {
                // It was deleted between the two calls.
                Err(HypervisorError::NoDomain { .. }) => Ok(None),
                result => {
                    let is_saved = domain.has_managed_save(0).unwrap_or(true);
                    result.map(|read| Some(with_saved_state(read, is_saved)))
                }
            },
        }
    }

    /// Caches the handles of all domains, so that a wake does not need to look up its domain.
    ///
    /// # Errors
    /// If the domains cannot be listed.
    pub(super) fn cache_handles(&self) -> Result<(), HypervisorError> {
        let all = self.all()?.into_iter().filter_map(|domain| Some((domain.uuid().ok()?, domain)));
        self.handles.replace(all.take(MAX_HANDLES).collect());
        Ok(())
    }

    fn all(&self) -> Result<Vec<virt::domain::Domain>, HypervisorError> {
        self.connection.list_all_domains(0).map_err(failed("list the domains"))
    }

    fn look_up(&self, uuid: Uuid) -> Result<virt::domain::Domain, HypervisorError> {
        self.connection.lookup_domain_by_uuid(uuid).map_err(failed("look up the domain"))
    }

    /// The handle of a domain, which may have been deleted in the meantime.
    fn handle(&self, uuid: Uuid) -> Result<virt::domain::Domain, HypervisorError> {
        if let Some(cached) = self.handles.borrow().get(&uuid) {
            return Ok(cached.clone());
        }
        let found = self.look_up(uuid)?;
        let mut handles = self.handles.borrow_mut();
        if handles.len() >= MAX_HANDLES {
            handles.clear();
        }
        handles.insert(uuid, found.clone());
        Ok(found)
    }
}

impl Session for Connection {
    fn state(&self, uuid: Uuid) -> Result<State, HypervisorError> {
        let domain = self.handle(uuid)?;
        let state = state(&domain)?;
        // libvirt reports a saved domain as shut off. If this call fails, only the log is less precise.
        let is_saved = || domain.has_managed_save(0).unwrap_or(false);
        Ok(if state == State::ShutOff && is_saved() { State::Saved } else { state })
    }

    fn last_stop(&self, uuid: Uuid) -> Result<Stop, HypervisorError> {
        last_stop(&self.handle(uuid)?)
    }

    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        // virDomainCreate would also request the domain's new ID from the daemon, which is not needed here.
        self.handle(uuid)?.create_with_flags(0).map_err(failed("start the domain"))
    }

    fn resume(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.handle(uuid)?.resume().map_err(failed("resume the domain"))
    }

    fn pm_wakeup(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.handle(uuid)?.pm_wakeup(0).map_err(failed("wake the guest"))
    }

    fn is_alive(&self) -> bool {
        self.connection.is_alive().unwrap_or(false)
    }
}
