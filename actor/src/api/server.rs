//! The connection that provides the interface.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::timeout;
use wakevirt_protocol::bus::{ACTOR_NAME, ACTOR_PATH};
use wakevirt_service::bus::{self, Address, CallLimiter, CallLimits, request_name, trusted_uids};
use wakevirt_service::lifecycle;
use wakevirt_service::logs::kind;
use zbus::Connection;
use zbus::object_server::SignalEmitter;

use super::body::wake_details;
use super::interface::Actor1;
use crate::engine::report::Decision;

/// The methods with large replies.
const LARGE: &[&str] = &["ExplainRules", "ListDomains", "ListDomainsAfter", "History", "HistoryBefore"];
/// The maximum length of a call, in bytes. The longest argument is the name of a domain.
const MAX_CALL: usize = 64 * 1024;
/// How long the service waits for the announcer's replay before it reports that it is ready. The announcer may hang.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Provides the interface on its own connection. Packets, and replies to calls to the bus, arrive on a different
/// connection, where they do not queue behind incoming calls.
pub(crate) struct Server {
    address: Address,
    interface: Actor1,
    decisions: broadcast::Sender<Arc<Decision>>,
    caught_up: watch::Receiver<bool>,
    calls: CallLimiter,
    connection: Option<Connection>,
}

impl Server {
    /// A server of this interface. It emits decisions as signals, and is ready once `caught_up` is true.
    pub fn new(
        address: Address,
        interface: Actor1,
        decisions: broadcast::Sender<Arc<Decision>>,
        caught_up: watch::Receiver<bool>,
    ) -> Self {
        Self { address, interface, decisions, caught_up, calls: limiter(), connection: None }
    }

    /// Runs until a connection is lost. Callers are looked up on `bus`.
    ///
    /// # Errors
    /// If a connection is lost, or the bus does not grant the name.
    pub async fn run(&mut self, bus: &Connection) -> Result<(), bus::BusError> {
        let connection = self.connection.insert(self.address.connect(Some(&self.calls)).await?);
        let mut interface = self.interface.clone();
        interface.authorizer = interface.authorizer.with_connection(bus);
        tokio::select! {
            result = provide(connection, interface, self.decisions.subscribe(), self.caught_up.clone()) => result,
            () = self.calls.look_up_senders(bus) => Ok(()),
            // Without this connection, callers cannot be identified.
            () = bus.closed() => Err(bus::BusError::Closed),
        }
    }

    /// Releases the name, and closes the connection once its replies are sent.
    pub async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            bus::disconnect(connection, ACTOR_NAME).await;
        }
    }
}

/// The limiter for calls.
fn limiter() -> CallLimiter {
    let slow = &["Wake", "WakeDomain", "Reload"];
    CallLimiter::new(CallLimits {
        max_bytes: MAX_CALL,
        slow,
        large: LARGE,
        trusted_uids: trusted_uids(&[]),
        pause_for_lookup: true,
    })
}

/// Provides the interface, and emits its signals, until the connection is lost.
///
/// # Errors
/// If the connection is lost, or the bus does not grant the name.
async fn provide(
    connection: &Connection,
    interface: Actor1,
    mut decisions: broadcast::Receiver<Arc<Decision>>,
    mut caught_up: watch::Receiver<bool>,
) -> Result<(), bus::BusError> {
    let mut status = interface.status.clone();
    connection.object_server().at(ACTOR_PATH, interface.clone()).await?;
    request_name(connection, ACTOR_NAME).await?;
    tracing::info!(MESSAGE_ID = kind::NAME_ACQUIRED, "providing {ACTOR_NAME}");
    // An upgrade restarts the announcer as soon as the actor is ready. The packets that the announcer stores are then
    // lost.
    let _ = timeout(CATCH_UP_TIMEOUT, caught_up.wait_for(|it| *it)).await;
    lifecycle::ready(&status.borrow().summary());
    let emitter = SignalEmitter::new(connection, ACTOR_PATH)?;
    let mut emitted = status.borrow_and_update().clone();
    loop {
        tokio::select! {
            decision = decisions.recv() => match decision {
                Ok(decision) => emit_wake_finished(&emitter, &decision).await?,
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(
                        MESSAGE_ID = kind::SIGNALS_LOST,
                        WAKEVIRT_LOST = lost,
                        "WakeFinished signals were not sent, because the bus is too slow: {lost}"
                    );
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().clone();
                if now.connections != emitted.connections {
                    interface.connections_changed(&emitter).await?;
                }
                if now.domains != emitted.domains {
                    interface.domains_changed(&emitter).await?;
                }
                emitted = now;
            }
            () = connection.closed() => return Err(bus::BusError::Closed),
        }
    }
}

async fn emit_wake_finished(emitter: &SignalEmitter<'_>, decision: &Decision) -> zbus::Result<()> {
    let name = decision.domain().unwrap_or_default();
    let outcome = decision.outcome.as_str();
    let mac = decision.subject.mac.map(|mac| mac.to_string()).unwrap_or_default();
    Actor1::wake_finished(emitter, &mac, name, outcome, wake_details(decision)).await
}
