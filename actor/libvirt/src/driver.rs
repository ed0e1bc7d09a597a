//! The driver: one connection that monitors a hypervisor, and a pool of connections for wakes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use virt::connect::Connect;
use wakevirt_libvirt::changes::Changes;
use wakevirt_libvirt::{keepalive, memory};

use crate::autostart;
use crate::connection::Connection;
use crate::follower::Follower;
use crate::monitor::{Monitor, Opened};
use crate::pool::{MAX_CONNECTIONS, Opener, Pool, PooledConnection, Shared};
use wakevirt_actor::config::Scope;
use wakevirt_actor::hypervisor::{
    AttemptFuture, AttemptRequest, Commands, Connected, Decisions, Driver, Hypervisor, HypervisorError,
    Updates, session,
};
use wakevirt_actor::model::{GROUP, Program};

/// How long opening the first connection for wakes can take. The keeper waits longer than this before it reports that
/// the hypervisor does not respond, because the error of this step is more specific.
const SESSION_TIMEOUT: Duration = Duration::from_secs(8);

/// How long the actor handles the lists of domains after it has connected. Then, the memory that they took is released.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// libvirt at one URI.
pub struct Libvirt {
    uri: Arc<str>,
    monitor: Monitor,
    pool: Pool,
    changes: Arc<Changes>,
}

impl Driver for Libvirt {
    const PROGRAM: Program = Program {
        name: "wakevirt-actor",
        uri: "qemu:///system",
        check_uri,
        cool_down: Duration::from_secs(5),
        group: Some(GROUP),
        is_cluster: false,
    };

    fn prepare(uris: &[String]) -> io::Result<()> {
        autostart::forbid(uris)
    }

    fn start(uri: &Arc<str>, _scope: &Scope, _decisions: &Decisions) -> io::Result<Self> {
        let monitor = Monitor::start(uri)?;
        let pool = Pool::start(uri)?;
        Ok(Self { uri: Arc::clone(uri), monitor, pool, changes: Arc::default() })
    }

    fn commands(uri: &str) -> Commands {
        let virsh = format!("virsh --connect {uri}");
        Commands {
            list_domains: format!("{virsh} list --all"),
            list_addresses: format!("{virsh} domiflist NAME"),
        }
    }

    async fn connect(&mut self) -> Result<Connected, HypervisorError> {
        let Opened { changes, shareable } = self.monitor.open().await?;
        self.changes = Arc::clone(&changes);
        // Changes during this call are queued in `changes`.
        let domains = self.monitor.domains().await?;
        // Not at the same time: for the handles that the first worker caches, libvirt reuses the memory of those that the
        // call above has freed. This saves 0.7 MB with 10,000 domains.
        let generation = self.pool.open(connections_in_advance(&self.uri), opener(&self.uri, shareable));
        tokio::select! {
            () = self.pool.ready() => {}
            () = changes.lost() => return Err(HypervisorError::NotConnected),
            () = tokio::time::sleep(SESSION_TIMEOUT) => return Err(HypervisorError::NoSession(self.pool.error())),
        }
        let pool = self.pool.shared();
        Ok(Connected { hypervisor: Arc::new(Sessions { pool, generation, changes }), domains })
    }

    async fn follow(&mut self, updates: &Updates) -> String {
        // This does not wait for the result.
        self.monitor.log_permissions();
        let Self { uri, monitor, pool, changes } = self;
        let mut follower = Follower::new(uri, monitor, updates);
        let following = async {
            tokio::select! {
                reason = follower.run(changes) => reason,
                () = pool.lost() => "no connection for wakes can be opened",
                () = pool.watch() => "the monitor of slow calls has stopped",
            }
        };
        tokio::pin!(following);
        if let Ok(reason) = timeout(SETTLE_TIME, &mut following).await {
            return reason.to_owned();
        }
        memory::release_unused();
        following.await.to_owned()
    }

    async fn close(&mut self) {
        self.pool.close();
        self.monitor.close().await;
    }
}

/// Checks that a URI is not for the other program. libvirt parses it.
fn check_uri(uri: &str) -> Result<(), String> {
    match uri.starts_with("kubevirt:") {
        true => Err(format!("wakevirt-kubevirt connects to {uri}, not wakevirt-actor")),
        false => Ok(()),
    }
}

/// Attempts wakes with the connections of one generation of the pool.
struct Sessions {
    pool: Arc<Shared>,
    generation: u64,
    changes: Arc<Changes>,
}

impl Hypervisor for Sessions {
    fn attempt(&self, request: AttemptRequest) -> AttemptFuture {
        let (work, result) = session::queue(request);
        self.pool.run(self.generation, work);
        result
    }

    fn queued(&self) -> usize {
        self.pool.queued()
    }

    fn is_alive(&self) -> bool {
        !self.changes.is_closed()
    }
}

/// Returns a function that opens libvirt connections for wakes.
fn opener(uri: &Arc<str>, shareable: Option<Connect>) -> Opener {
    let uri = Arc::clone(uri);
    Arc::new(move |worker, listener| {
        if let Some(connection) = &shareable {
            let session = Box::new(Connection::sharing(&uri, connection.clone()));
            return Ok(PooledConnection { session, keepalive: Arc::new(|| ()) });
        }
        let session = Connection::open_to_wake(&uri, listener)?;
        // Wakes prefer worker 0, so only its connection caches the handles. The calls that do this run without
        // keepalive, and might never return if the daemon is on another host.
        if worker == 0 && is_local(&uri) {
            session.cache_handles()?;
        }
        let connection = session.connection();
        let keepalive = Arc::new(move || {
            let _has_daemon = keepalive::start(&connection);
        });
        Ok(PooledConnection { session: Box::new(session), keepalive })
    })
}

/// The number of connections for wakes that are opened in advance. A connection to another host can require an ssh
/// process here and a login there, so only one is opened at first. More are opened if several wakes arrive at the same
/// time.
fn connections_in_advance(uri: &str) -> usize {
    if is_local(uri) { MAX_CONNECTIONS } else { 1 }
}

/// Whether the daemon at this URI runs on this host and needs no login.
fn is_local(uri: &str) -> bool {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let transport = scheme.split_once('+').map(|(_, transport)| transport);
    matches!(transport, None | Some("unix")) && rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_one_connection_in_advance_if_each_needs_a_login() {
        for (uri, connections) in [
            ("qemu:///system", MAX_CONNECTIONS),
            ("qemu:///session?socket=/run/x", MAX_CONNECTIONS),
            ("test+unix:///default?socket=/run/libvirt/libvirt-sock", MAX_CONNECTIONS),
            ("qemu+ssh://user@host/system", 1),
            ("qemu+ssh:///system", 1),
            ("qemu://host/system", 1),
            ("qemu+tls://host/system", 1),
            ("no uri", 1),
        ] {
            assert_eq!(connections_in_advance(uri), connections, "{uri}");
        }
    }
}
