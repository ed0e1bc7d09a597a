//! The capture client: everything that the actor exchanges with the announcer.

mod call_error;
mod interest;
mod interfaces;
mod listener;
mod lost_packets;
mod merge;
mod password;
mod proxy;

use tokio::sync::{mpsc, watch};
use wakevirt_service::bus::BusError;
use zbus::Connection;
use zbus::names::OwnedUniqueName;

use listener::Output;

pub use interest::Macs;
pub(crate) use interfaces::{NamedInterfaces, named_interfaces};
pub use lost_packets::LostPackets;
pub use merge::{Merge, NewPacket};
pub(crate) use password::{PasswordRequest, fetch_password};

/// The capture client. It outlives the bus connections, and so does its record of received packets.
pub(crate) struct Client {
    /// The record of received packets.
    pub merge: Merge,
    /// Receives each packet once.
    pub packets: mpsc::Sender<NewPacket>,
    /// Becomes true when the packets that the announcer remembers have been received, or cannot be received.
    pub caught_up: watch::Sender<bool>,
    /// Counts packets that the announcer no longer remembers.
    pub lost: LostPackets,
    /// The MAC addresses of the known domains, for the announcer.
    pub macs: watch::Receiver<Macs>,
    /// The interfaces that rules name, for comparison with the announcer's interfaces.
    pub named: watch::Receiver<NamedInterfaces>,
    /// Requests for SecureOn passwords.
    pub fetches: mpsc::Receiver<PasswordRequest>,
}

impl Client {
    /// Exchanges packets, the interest and passwords with the announcer until the connection is lost, or the actor
    /// exits.
    ///
    /// # Errors
    /// If the connection is lost, or the bus rejects the subscription.
    pub async fn run(&mut self, connection: &Connection) -> Result<(), BusError> {
        let (owner, owners) = watch::channel::<Option<OwnedUniqueName>>(None);
        let Self { merge, packets, caught_up, lost, macs, named, fetches } = self;
        let output = Output { packets, owner: &owner, caught_up, lost: lost.clone() };
        tokio::select! {
            result = listener::listen(connection, output, merge) => result,
            () = interest::report(connection, owners.clone(), macs.clone()) => Ok(()),
            () = interfaces::check(connection, owners.clone(), named.clone()) => Ok(()),
            () = password::run(connection, owners, fetches) => Ok(()),
        }
    }
}
