//! `org.wakevirt.Actor1` on the bus: translates, and decides nothing.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{ACTOR_NAME, ACTOR_PATH, Error};
use wakevirt_service::bus::own;
use wakevirt_service::lifecycle;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, Variant};

use crate::actor::Status;
use crate::caller;
use crate::decision::Outcome;
use crate::report::Finished;
use crate::request::{Answer, Listed, Requests};

type Dict = HashMap<&'static str, Variant<'static>>;

/// The actor's interface.
#[derive(Debug, Clone)]
pub struct Actor1 {
    /// The hypervisor's URI.
    pub connection: String,
    /// Where calls are answered.
    pub requests: Requests,
    /// What there is.
    pub status: watch::Receiver<Status>,
}

/// Serves the interface, and emits its signals, until the connection is lost.
///
/// # Errors
/// When the connection is lost, or the bus does not give the name.
pub async fn serve(
    connection: &Connection,
    interface: &Actor1,
    mut finished: broadcast::Receiver<Arc<Finished>>,
) -> Result<(), crate::Error> {
    let mut status = interface.status.clone();
    connection.object_server().at(ACTOR_PATH, interface.clone()).await?;
    own(connection, ACTOR_NAME).await?;
    lifecycle::ready(&status.borrow().words(&interface.connection));
    tracing::info!("serving {ACTOR_NAME}");
    let emitter = SignalEmitter::new(connection, ACTOR_PATH)?;
    let mut told = *status.borrow_and_update();
    loop {
        tokio::select! {
            decision = finished.recv() => match decision {
                Ok(decision) => tell(&emitter, &decision).await?,
                Err(RecvError::Lagged(lost)) => tracing::warn!("the bus is too slow: {lost} signals are lost"),
                Err(RecvError::Closed) => return Ok(()),
            },
            Ok(()) = status.changed() => {
                let now = *status.borrow_and_update();
                if now.connected != told.connected {
                    interface.connections_changed(&emitter).await?;
                }
                if now.domains != told.domains {
                    interface.domains_changed(&emitter).await?;
                }
                told = now;
            }
            () = connection.closed() => return Err(crate::Error::BusClosed),
        }
    }
}

async fn tell(emitter: &SignalEmitter<'_>, finished: &Finished) -> zbus::Result<()> {
    let subject = &finished.subject;
    let name = finished.domain().unwrap_or_default();
    let outcome = finished.outcome.as_str();
    Actor1::wake_finished(emitter, &subject.mac.to_string(), name, outcome, details(finished)).await
}

fn details(finished: &Finished) -> Dict {
    let subject = &finished.subject;
    let mut details = Dict::from([
        ("trigger", subject.trigger().as_str().into()),
        ("reason", finished.reason.clone().into()),
        ("connection", finished.connection.clone().into()),
    ]);
    details.extend(subject.domain.as_ref().map(|(uuid, _)| ("uuid", uuid.to_string().into())));
    details.extend(subject.rule.as_ref().map(|rule| ("rule", rule.clone().into())));
    if let Some(packet) = &subject.packet {
        details.insert("sequence", packet.sequence.into());
        details.extend(packet.details.epoch.as_ref().map(|epoch| ("epoch", epoch.clone().into())));
    }
    details
}

fn listed(listed: Listed) -> Dict {
    let macs: Vec<String> = listed.domain.macs.iter().map(MacAddr::to_string).collect();
    let mut entry = Dict::from([
        ("connection", listed.connection.into()),
        ("name", listed.domain.name.into()),
        ("uuid", listed.domain.uuid.to_string().into()),
        ("macs", macs.into()),
        ("state", listed.state.to_string().into()),
        ("allowed", listed.rule.is_some().into()),
    ]);
    entry.extend(listed.rule.map(|rule| ("rule", rule.into())));
    entry.extend(listed.last_wake.map(|time| ("last-wake", time.into())));
    entry
}

/// The reply to a call that wakes, or the error.
fn reply(answer: &Answer, mac: MacAddr, connection: &str) -> Result<String, Error> {
    let finished = match answer {
        Answer::Finished(finished) => finished,
        Answer::Unknown => {
            return Err(Error::NoSuchDomain(format!(
                "no domain of {connection} has the MAC address {mac}; virsh domiflist shows those of a domain"
            )));
        }
        Answer::Away => {
            return Err(Error::HypervisorAway(format!(
                "{connection} cannot be reached; see the log of wakevirt-actor, and try again"
            )));
        }
    };
    let name = finished.domain().unwrap_or_default();
    let reason = &finished.reason;
    match finished.outcome {
        Outcome::Started | Outcome::AlreadyRunning => Ok(finished.outcome.as_str().to_owned()),
        Outcome::Ambiguous => Err(Error::Ambiguous(reason.clone())),
        Outcome::NotAllowed | Outcome::Failed => {
            Err(Error::Failed(format!("{name} was not woken: {reason}")))
        }
    }
}

fn ended() -> Error {
    Error::Failed("the service is about to end; try again".to_owned())
}

#[zbus::interface(name = "org.wakevirt.Actor1")]
impl Actor1 {
    /// Wakes the domain that owns this MAC address; returns the outcome.
    #[zbus(out_args("outcome"))]
    async fn wake(
        &self,
        mac: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Error> {
        caller::may_wake(connection, &header).await?;
        let mac: MacAddr = mac.parse().map_err(|error| Error::InvalidArgument(format!("{error}")))?;
        reply(&self.requests.wake(mac).await.ok_or_else(ended)?, mac, &self.connection)
    }

    /// Every domain that is known.
    #[zbus(out_args("domains"))]
    async fn list_domains(&self) -> Result<Vec<Dict>, Error> {
        let list = self.requests.list().await.ok_or_else(ended)?;
        Ok(list.into_iter().map(listed).collect())
    }

    /// A decision about a domain was made.
    #[zbus(signal)]
    async fn wake_finished(
        emitter: &SignalEmitter<'_>,
        mac: &str,
        domain: &str,
        outcome: &str,
        details: Dict,
    ) -> zbus::Result<()>;

    /// The version of wakevirt.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// The hypervisor connections: URI, and whether it is connected.
    #[zbus(property)]
    fn connections(&self) -> Vec<(String, bool)> {
        vec![(self.connection.clone(), self.status.borrow().connected)]
    }

    /// How many domains are known.
    #[zbus(property)]
    fn domains(&self) -> u32 {
        self.status.borrow().domains
    }
}

#[cfg(test)]
mod tests;
