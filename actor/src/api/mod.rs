//! `org.wakevirt.Actor1` on the bus: translates, and decides nothing.

pub mod access;
mod listing;
mod server;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{self as names, ACTOR_NAME, ACTOR_PATH, Error, PacketDetails};
use wakevirt_service::bus::{self, Calls, Limits, own, trusted};
use wakevirt_service::lifecycle;
use wakevirt_service::logs::quoted;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, Variant};

pub(crate) use server::Server;

use crate::announcer::LostPackets;
use crate::api::access::{Action, Gate};
use crate::engine::Status;
use crate::engine::report::Decision;
use crate::engine::request::{Listed, Requests, WakeReply};
use crate::model::{Caller, Id, Outcome, WakeTarget};
use listing::Listing;

type Dict = HashMap<&'static str, Variant<'static>>;

/// How long a caller waits for the end of a wake: callers give up after 25 s.
const PATIENCE: Duration = Duration::from_secs(18);
/// The methods with a large reply.
const LARGE: &[&str] = &["ListDomains", "ListDomainsAfter", "History", "HistoryBefore"];
/// The longest call, in bytes.
const LONGEST_CALL: usize = 64 * 1024;
/// libvirt names files after domains: NAME_MAX, limits.h(0p).
const LONGEST_NAME: usize = 255;
/// What a caller is told whose wake has not ended by then; `WakeFinished` tells its end.
pub const HELD: &str = "held";
/// How long the service manager is told nothing while the announcer does not say what it remembers. It may hang.
const CATCHING_UP: Duration = Duration::from_secs(10);

/// A caller who wants the configuration to be read again, and waits for what comes of it.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// The actor's interface.
#[derive(Debug, Clone)]
pub struct Actor1 {
    /// Where calls are answered.
    pub requests: Requests,
    /// Where the configuration is read again.
    pub reloads: mpsc::Sender<Reload>,
    /// What there is.
    pub status: watch::Receiver<Status>,
    /// Who may call what changes something.
    pub gate: Gate,
    /// Packets that were lost.
    pub lost: LostPackets,
}

/// What the actor takes at once. A domain's name is the longest thing that is said in a call.
fn calls() -> Calls {
    let slow = &["Wake", "WakeDomain", "Reload"];
    Calls::new(Limits { longest: LONGEST_CALL, slow, large: LARGE, trusted: trusted(&[]), holds_back: true })
}

/// Serves the interface, and emits its signals, until the connection is lost.
///
/// # Errors
/// When the connection is lost, or the bus does not give the name.
async fn serve(
    connection: &Connection,
    interface: Actor1,
    mut finished: broadcast::Receiver<Arc<Decision>>,
    mut caught_up: watch::Receiver<bool>,
) -> Result<(), bus::Error> {
    let mut status = interface.status.clone();
    connection.object_server().at(ACTOR_PATH, interface.clone()).await?;
    own(connection, ACTOR_NAME).await?;
    tracing::info!("serving {ACTOR_NAME}");
    // An upgrade restarts the announcer as soon as the actor is ready, and then it remembers nothing any more.
    let _ = timeout(CATCHING_UP, caught_up.wait_for(|it| *it)).await;
    lifecycle::ready(&status.borrow().words());
    let emitter = SignalEmitter::new(connection, ACTOR_PATH)?;
    let mut told = status.borrow_and_update().clone();
    loop {
        tokio::select! {
            decision = finished.recv() => match decision {
                Ok(decision) => tell(&emitter, &decision).await?,
                Err(RecvError::Lagged(lost)) => tracing::warn!("the bus is too slow: {lost} signals are lost"),
                Err(RecvError::Closed) => return Ok(()),
            },
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().clone();
                if now.connections != told.connections {
                    interface.connections_changed(&emitter).await?;
                }
                if now.domains != told.domains {
                    interface.domains_changed(&emitter).await?;
                }
                told = now;
            }
            () = connection.closed() => return Err(bus::Error::Closed),
        }
    }
}

async fn tell(emitter: &SignalEmitter<'_>, finished: &Decision) -> zbus::Result<()> {
    let subject = &finished.subject;
    let name = finished.domain().unwrap_or_default();
    let outcome = finished.outcome.as_str();
    let mac = subject.mac.map(|mac| mac.to_string()).unwrap_or_default();
    Actor1::wake_finished(emitter, &mac, name, outcome, details(finished)).await
}

/// The details of `WakeFinished`.
#[must_use]
pub fn details(finished: &Decision) -> Dict {
    let subject = &finished.subject;
    let mut details = Dict::from([
        ("trigger", subject.trigger().as_str().into()),
        ("reason", finished.reason.clone().into()),
    ]);
    if let Some((id, _)) = &subject.domain {
        details.insert("connection", id.connection.to_string().into());
        details.insert("uuid", id.uuid.to_string().into());
    }
    details.extend(subject.rule.as_ref().map(|rule| ("rule", rule.clone().into())));
    if let Some(packet) = &subject.packet {
        details.insert("sequence", packet.sequence.into());
        details.extend(packet.details.epoch.as_ref().map(|epoch| ("epoch", epoch.clone().into())));
        details.extend(packet.details.vlan.map(|vlan| ("vlan", vlan.into())));
        let interface = packet.details.interface.as_ref().map(|it| ("interface", it.clone().into()));
        let source = packet.details.source.map(|it| ("source", it.to_string().into()));
        let source_mac = packet.details.source_mac.map(|it| ("source-mac", it.to_string().into()));
        details.extend(interface.into_iter().chain(source).chain(source_mac));
    }
    details
}

/// A decision of the past, as `History` replies it: what its signal told, when, and who called. The signal goes to
/// everyone, and who called is not for everyone.
#[must_use]
pub fn remembered(number: u64, finished: &Decision) -> Dict {
    let mut entry = details(finished);
    entry.insert("number", number.into());
    entry.insert("time", finished.time.into());
    entry.insert("outcome", finished.outcome.as_str().into());
    entry.extend(finished.domain().map(|name| ("domain", name.to_owned().into())));
    entry.extend(finished.subject.mac.map(|mac| ("mac", mac.to_string().into())));
    if let Some(caller) = finished.subject.caller {
        entry.insert("caller", caller.user.into());
        entry.insert("authority", caller.by.as_str().into());
    }
    entry
}

/// A domain, as `ListDomains` replies it.
#[must_use]
pub fn listed(listed: Listed) -> Dict {
    let macs: Vec<String> = listed.macs.iter().map(MacAddr::to_string).collect();
    let mut entry = Dict::from([
        ("connection", listed.id.connection.to_string().into()),
        ("name", listed.name.into()),
        ("uuid", listed.id.uuid.to_string().into()),
        ("macs", macs.into()),
        ("state", listed.state.to_string().into()),
        ("allowed", listed.rule.is_some().into()),
    ]);
    entry.extend(listed.rule.map(|rule| ("rule", rule.into())));
    entry.extend(listed.last_wake.map(|time| ("last-wake", time.into())));
    entry
}

/// The reply to a call that wakes, or the error.
fn reply(answer: &WakeReply, target: &WakeTarget) -> Result<String, Error> {
    let finished = match (answer, target) {
        (WakeReply::Decided(finished), _) => finished,
        (WakeReply::UnknownDomain, WakeTarget::Mac(mac)) => {
            return Err(Error::NoSuchDomain(format!(
                "no domain has the MAC address {mac}; ListDomains shows the domains that are known, and their \
                 addresses"
            )));
        }
        (WakeReply::UnknownDomain, WakeTarget::Domain(name)) => {
            return Err(Error::NoSuchDomain(format!(
                "no domain has the name or UUID {}; ListDomains shows the domains that are known",
                quoted(name)
            )));
        }
        (WakeReply::HypervisorAway(missing), _) => return Err(away("no such domain is known", missing)),
    };
    let name = finished.domain().unwrap_or_default();
    let reason = &finished.reason;
    match finished.outcome {
        Outcome::Started | Outcome::Resumed | Outcome::Woken | Outcome::AlreadyRunning => {
            Ok(finished.outcome.as_str().to_owned())
        }
        Outcome::Ambiguous => Err(Error::Ambiguous(reason.clone())),
        Outcome::NotAllowed
        | Outcome::CoolingDown
        | Outcome::BadPassword
        | Outcome::MigratedAway
        | Outcome::Expired
        | Outcome::Failed => Err(Error::Failed(format!("{name} was not woken: {reason}"))),
    }
}

fn away(what: &str, missing: &str) -> Error {
    Error::HypervisorAway(format!(
        "{what}, and {missing} cannot be reached; see the log of wakevirt-actor, and try again"
    ))
}

fn ended() -> Error {
    Error::Failed("the service is about to end; try again".to_owned())
}

fn ending() -> zbus::fdo::Error {
    zbus::fdo::Error::Failed("the service is about to end; try again".to_owned())
}

fn address(text: &str) -> Result<MacAddr, Error> {
    text.parse().map_err(|error| Error::InvalidArgument(format!("{error}")))
}

/// A domain's name or UUID. polkit shows it to whoever is to type a password.
fn domain(text: &str) -> Result<String, Error> {
    if text.len() <= LONGEST_NAME && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Error::InvalidArgument(format!(
        "{} is no domain's name: those have at most {LONGEST_NAME} bytes, and no control characters",
        quoted(text)
    )))
}

impl Actor1 {
    async fn domains_after(&self, last: Option<Id>) -> Result<Vec<Listed>, Error> {
        let list = self.requests.list(last).await.ok_or_else(ended)?;
        list.map_err(|missing| away("no domain is known", &missing))
    }

    /// Wakes; what takes longer than a caller can wait goes on without them.
    async fn wake_target(&self, target: WakeTarget, caller: Caller) -> Result<String, Error> {
        match timeout(PATIENCE, self.requests.wake(target.clone(), caller)).await {
            Ok(answer) => reply(&answer.ok_or_else(ended)?, &target),
            Err(_) => Ok(HELD.to_owned()),
        }
    }
}

#[zbus::interface(name = "org.wakevirt.Actor1")]
impl Actor1 {
    /// Wakes the domain that owns this MAC address; returns the outcome.
    #[zbus(out_args("outcome"))]
    async fn wake(&self, mac: &str, #[zbus(header)] header: Header<'_>) -> Result<String, Error> {
        let target = WakeTarget::Mac(address(mac)?);
        let caller = self.gate.admit(&header, Action::Wake(&target)).await?;
        self.wake_target(target, caller).await
    }

    /// Wakes the domain that has this name or UUID; returns the outcome.
    #[zbus(out_args("outcome"))]
    async fn wake_domain(
        &self,
        name_or_uuid: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Error> {
        let target = WakeTarget::Domain(domain(name_or_uuid)?);
        let caller = self.gate.admit(&header, Action::Wake(&target)).await?;
        self.wake_target(target, caller).await
    }

    /// What would come of such a packet; nothing is done.
    #[zbus(out_args("would_wake", "reason"))]
    async fn explain(&self, mac: &str, details: names::Dict) -> Result<(bool, String), Error> {
        let details = PacketDetails::from(&details);
        self.requests.explain(address(mac)?, details).await.ok_or_else(ended)
    }

    /// The last decisions, the newest first.
    #[zbus(out_args("decisions"))]
    async fn history(&self, most: u32) -> Result<Vec<Dict>, Error> {
        self.history_before(u64::MAX, most).await
    }

    /// The last decisions with a lower number than this, the newest first.
    #[zbus(out_args("decisions"))]
    async fn history_before(&self, number: u64, most: u32) -> Result<Vec<Dict>, Error> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let history = self.requests.history(number, most).await.ok_or_else(ended)?;
        Ok(Listing::of(history.iter().map(|(number, finished)| remembered(*number, finished))))
    }

    /// Reads the configuration again.
    async fn reload(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let caller = self.gate.admit(&header, Action::Reload).await?;
        tracing::info!(
            caller = caller.user,
            authority = %caller.by.as_str(),
            "{caller} asks to read the configuration again",
        );
        let (caller, end) = oneshot::channel();
        self.reloads.send(caller).await.map_err(|_| ended())?;
        let stays = |error| Error::Failed(format!("the configuration stays as it was: {error}"));
        end.await.map_err(|_| ended())?.map_err(stays)
    }

    /// Every domain that is known.
    #[zbus(out_args("domains"))]
    async fn list_domains(&self) -> Result<Vec<Dict>, Error> {
        let (mut page, mut last) = (Listing::default(), None);
        loop {
            let list = self.domains_after(last).await?;
            let Some(end) = list.last() else { return Ok(page.entries) };
            last = Some(end.id.clone());
            if !list.into_iter().all(|domain| page.push(listed(domain))) {
                return Err(Error::LimitExceeded(
                    "there are more domains than one reply takes; call ListDomainsAfter until it replies none"
                        .to_owned(),
                ));
            }
        }
    }

    /// The first domains after this one; after the last one none.
    #[zbus(out_args("domains"))]
    async fn list_domains_after(&self, connection: &str, uuid: &str) -> Result<Vec<Dict>, Error> {
        let after = match (connection, uuid) {
            ("", "") => None,
            (connection, uuid) => {
                let uuid = uuid.parse().map_err(|_| {
                    Error::InvalidArgument(format!("{} is no UUID, as ListDomains tells it", quoted(uuid)))
                })?;
                Some(Id { connection: connection.into(), uuid })
            }
        };
        let list = self.domains_after(after).await?;
        Ok(Listing::of(list.into_iter().map(listed)))
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
        let status = self.status.borrow();
        status.connections.iter().map(|(uri, connected)| (uri.to_string(), *connected)).collect()
    }

    /// How many domains are known.
    #[zbus(property)]
    fn domains(&self) -> u32 {
        self.status.borrow().domains
    }

    /// How often a wake ended how.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn outcomes(&self) -> zbus::fdo::Result<HashMap<&'static str, u64>> {
        let counts = self.requests.counts().await.ok_or_else(ending)?;
        let count = |outcome: Outcome| counts.outcomes.get(&outcome).copied().unwrap_or_default();
        Ok(Outcome::ALL.into_iter().map(|outcome| (outcome.as_str(), count(outcome))).collect())
    }

    /// Packets for MAC addresses that no domain has.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn unknown_packets(&self) -> zbus::fdo::Result<u64> {
        Ok(self.requests.counts().await.ok_or_else(ending)?.unknown)
    }

    /// Packets that were announced and never decided about.
    #[zbus(property(emits_changed_signal = "false"))]
    fn lost_packets(&self) -> u64 {
        self.lost.count()
    }
}

#[cfg(test)]
mod tests;
