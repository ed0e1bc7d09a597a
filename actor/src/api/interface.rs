//! The `org.wakevirt.Actor1` interface: translates between the bus and the engine.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use wakevirt_protocol::bus::{self as names, Error, PacketDetails};
use wakevirt_service::clock;
use wakevirt_service::logs::{kind, quoted};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;

use super::body::{
    Dict, domain_entry, exiting, exiting_property, history_entry, hypervisor_unavailable, parse_domain,
    parse_mac, wake_reply,
};
use super::page::ReplyPage;
use crate::announcer::LostPackets;
use crate::api::access::{Authorizer, Operation};
use crate::engine::Status;
use crate::engine::request::{ListedDomain, Requests};
use crate::model::{Caller, Id, Outcome, WakeTarget};

/// How long a call waits for a wake to end. D-Bus libraries time out after 25 s.
const WAKE_TIMEOUT: Duration = Duration::from_secs(18);
/// The reply if the wake has not ended within `WAKE_TIMEOUT`. `WakeFinished` reports its end.
pub const HELD: &str = "held";

/// A request to reload the configuration, which receives the result.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// The interface, with its channels to the other modules.
#[derive(Debug, Clone)]
pub struct Actor1 {
    /// The engine.
    pub requests: Requests,
    /// The task that reloads the configuration.
    pub reloads: mpsc::Sender<Reload>,
    /// The values of properties with change signals.
    pub status: watch::Receiver<Status>,
    /// Whether the last reload of the configuration succeeded.
    pub valid: watch::Receiver<bool>,
    /// Authorises calls that change something.
    pub authorizer: Authorizer,
    /// The `LostPackets` counter.
    pub lost: LostPackets,
}

impl Actor1 {
    async fn domains_after(&self, last: Option<Id>) -> Result<Vec<ListedDomain>, Error> {
        let list = self.requests.list(last).await.ok_or_else(exiting)?;
        list.map_err(|uris| hypervisor_unavailable("no domain is known", &uris))
    }

    /// Wakes a domain. If that takes too long for the caller, it continues after the reply.
    pub(super) async fn wake_target(&self, target: WakeTarget, caller: Caller) -> Result<String, Error> {
        match timeout(WAKE_TIMEOUT, self.requests.wake(target.clone(), caller)).await {
            Ok(reply) => wake_reply(&reply.ok_or_else(exiting)?, &target),
            Err(_) => Ok(HELD.to_owned()),
        }
    }
}

#[zbus::interface(name = "org.wakevirt.Actor1")]
impl Actor1 {
    /// Wakes the domain with this MAC address, and returns the outcome.
    #[zbus(out_args("outcome"))]
    async fn wake(&self, mac: &str, #[zbus(header)] header: Header<'_>) -> Result<String, Error> {
        let target = WakeTarget::Mac(parse_mac(mac)?);
        let caller = self.authorizer.authorize(&header, Operation::Wake(&target)).await?;
        self.wake_target(target, caller).await
    }

    /// Wakes the domain with this name or UUID, and returns the outcome.
    #[zbus(out_args("outcome"))]
    async fn wake_domain(
        &self,
        name_or_uuid: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Error> {
        let target = WakeTarget::Domain(parse_domain(name_or_uuid)?);
        let caller = self.authorizer.authorize(&header, Operation::Wake(&target)).await?;
        self.wake_target(target, caller).await
    }

    /// Returns whether a packet with this address and these details would wake a domain, and the reason. Does not wake it.
    #[zbus(out_args("would_wake", "reason"))]
    async fn explain(&self, mac: &str, details: names::Dict) -> Result<(bool, String), Error> {
        let details = PacketDetails::from(&details);
        self.requests.explain(parse_mac(mac)?, details).await.ok_or_else(exiting)
    }

    /// Returns how the actor would decide on a packet with this address and these details, with all rules. Does not wake a
    /// domain.
    #[zbus(out_args("explanation"))]
    async fn explain_rules(&self, mac: &str, details: names::Dict) -> Result<Dict, Error> {
        let details = PacketDetails::from(&details);
        let explanation = self.requests.explain_rules(parse_mac(mac)?, details).await;
        Ok(explanation.ok_or_else(exiting)?.into())
    }

    /// Returns the most recent decisions, newest first.
    #[zbus(out_args("decisions"))]
    async fn history(&self, limit: u32) -> Result<Vec<Dict>, Error> {
        self.history_before(u64::MAX, limit).await
    }

    /// Returns the most recent decisions with a lower number than this, newest first.
    #[zbus(out_args("decisions"))]
    async fn history_before(&self, number: u64, limit: u32) -> Result<Vec<Dict>, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let history = self.requests.history(number, limit).await.ok_or_else(exiting)?;
        Ok(ReplyPage::fill(history.iter().map(|(number, decision)| history_entry(*number, decision))))
    }

    /// Reloads the configuration.
    async fn reload(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let caller = self.authorizer.authorize(&header, Operation::Reload).await?;
        tracing::info!(
            MESSAGE_ID = kind::RELOAD_REQUESTED,
            WAKEVIRT_CALLER = caller.user,
            WAKEVIRT_AUTHORITY = caller.authority.as_str(),
            "{caller} requests a reload of the configuration",
        );
        let (reply, result) = oneshot::channel();
        self.reloads.send(reply).await.map_err(|_| exiting())?;
        let failed = |error| Error::Failed(format!("the configuration was not reloaded: {error}"));
        result.await.map_err(|_| exiting())?.map_err(failed)
    }

    /// Returns all known domains.
    #[zbus(out_args("domains"))]
    async fn list_domains(&self) -> Result<Vec<Dict>, Error> {
        let (mut page, mut last) = (ReplyPage::default(), None);
        loop {
            let list = self.domains_after(last).await?;
            let Some(end) = list.last() else { return Ok(page.entries) };
            last = Some(end.id.clone());
            if !list.into_iter().all(|domain| page.push(domain_entry(domain))) {
                return Err(Error::LimitExceeded(
                    "the list is too long for one reply; call ListDomainsAfter until a reply is empty"
                        .to_owned(),
                ));
            }
        }
    }

    /// Returns the first domains after this one, limited to one reply.
    #[zbus(out_args("domains"))]
    async fn list_domains_after(&self, connection: &str, uuid: &str) -> Result<Vec<Dict>, Error> {
        let after = match (connection, uuid) {
            ("", "") => None,
            (connection, uuid) => {
                let uuid = uuid
                    .parse()
                    .map_err(|_| Error::InvalidArgument(format!("{} is not a UUID", quoted(uuid))))?;
                Some(Id { connection: connection.into(), uuid })
            }
        };
        let list = self.domains_after(after).await?;
        Ok(ReplyPage::fill(list.into_iter().map(domain_entry)))
    }

    /// The actor made a decision about a domain.
    #[zbus(signal)]
    pub(super) async fn wake_finished(
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

    /// The URI of each hypervisor, and whether it is connected.
    #[zbus(property)]
    fn connections(&self) -> Vec<(String, bool)> {
        let status = self.status.borrow();
        status.connections.iter().map(|(uri, connected)| (uri.to_string(), *connected)).collect()
    }

    /// The URI of each hypervisor to which the connection failed, and the reason.
    #[zbus(property(emits_changed_signal = "false"))]
    fn connection_errors(&self) -> Vec<(String, String)> {
        let status = self.status.borrow();
        status.errors.iter().map(|(uri, reason)| (uri.to_string(), reason.to_string())).collect()
    }

    /// The number of known domains.
    #[zbus(property)]
    fn domains(&self) -> u32 {
        self.status.borrow().domains
    }

    /// The last time at which the list of domains was current, for each hypervisor.
    #[zbus(property(emits_changed_signal = "false"))]
    fn last_sync(&self) -> Vec<(String, u64)> {
        self.status.borrow().last_sync(clock::realtime())
    }

    /// Whether the configuration was valid when it was last read.
    #[zbus(property(emits_changed_signal = "false"))]
    fn configuration_valid(&self) -> bool {
        *self.valid.borrow()
    }

    /// The number of wakes with each outcome.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn outcomes(&self) -> zbus::fdo::Result<HashMap<&'static str, u64>> {
        let counts = self.requests.counts().await.ok_or_else(exiting_property)?;
        let count = |outcome: Outcome| counts.outcomes.get(&outcome).copied().unwrap_or_default();
        Ok(Outcome::ALL.into_iter().map(|outcome| (outcome.as_str(), count(outcome))).collect())
    }

    /// The number of packets for MAC addresses that no domain has.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn unknown_packets(&self) -> zbus::fdo::Result<u64> {
        Ok(self.requests.counts().await.ok_or_else(exiting_property)?.unknown)
    }

    /// The MAC addresses that no domain has and for which packets arrived most recently, newest first: address, number
    /// of packets, time and interface.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn unknown_addresses(&self) -> zbus::fdo::Result<Vec<(String, u64, u64, String)>> {
        let counts = self.requests.counts().await.ok_or_else(exiting_property)?;
        let addresses = counts.unknown_addresses.iter();
        Ok(addresses.map(|it| (it.mac.to_string(), it.packets, it.time, it.interface.clone())).collect())
    }

    /// How long successful wakes triggered by packets took: cumulative buckets, sum and count.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn wake_latency(&self) -> zbus::fdo::Result<(Vec<(u64, u64)>, u64, u64)> {
        Ok(self.requests.counts().await.ok_or_else(exiting_property)?.latency.cumulative())
    }

    /// The number of packets that were announced but never led to a decision.
    #[zbus(property(emits_changed_signal = "false"))]
    fn lost_packets(&self) -> u64 {
        self.lost.count()
    }
}
