//! The connection on which the actor is called.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_service::bus::{self, Address, Calls};
use zbus::Connection;

use super::{Actor1, calls, serve};
use crate::engine::report::Decision;

/// Serves the interface on a connection of its own: what calls ask of the bus, and packets, come on another one,
/// and do not wait behind calls.
pub(crate) struct Server {
    address: Address,
    interface: Actor1,
    finished: broadcast::Sender<Arc<Decision>>,
    caught_up: watch::Receiver<bool>,
    calls: Calls,
    connection: Option<Connection>,
}

impl Server {
    /// A server of this interface, which emits decisions as signals and is ready once packets have caught up.
    pub fn new(
        address: Address,
        interface: Actor1,
        finished: broadcast::Sender<Arc<Decision>>,
        caught_up: watch::Receiver<bool>,
    ) -> Self {
        Self { address, interface, finished, caught_up, calls: calls(), connection: None }
    }

    /// Serves until a connection is lost; `bus` is the one on which callers are looked up.
    ///
    /// # Errors
    /// If a connection is lost, or the bus does not give the name.
    pub async fn run(&mut self, bus: &Connection) -> Result<(), bus::Error> {
        let connection = self.connection.insert(self.address.connect(Some(&self.calls)).await?);
        let mut interface = self.interface.clone();
        interface.gate = interface.gate.asking(bus);
        tokio::select! {
            served = serve(connection, interface, self.finished.subscribe(), self.caught_up.clone()) => served,
            () = self.calls.look_up_users(bus) => Ok(()),
            // Without it no caller can be identified.
            () = bus.closed() => Err(bus::Error::Closed),
        }
    }

    /// Gives up the name, and closes the connection once its replies were sent.
    pub async fn leave(&mut self) {
        if let Some(connection) = self.connection.take() {
            bus::leave(connection, ACTOR_NAME).await;
        }
    }
}
