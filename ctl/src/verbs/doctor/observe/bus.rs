//! What the services report on the bus.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use wakevirt_protocol::explain::Explanation;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::client::{ActorStatus, CaptureStatus, Client, Decision, Domain, Error, Packet, Service};
use crate::verbs::finding::{Seen, not_checked};

/// The maximum number of decisions that doctor reads.
const DECISIONS: usize = 200;
/// The maximum number of denied packets that the actor explains, at most one for each domain: the latest.
const MAX_EXPLAINED: usize = 16;
/// The timeout of a call to the bus itself.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);

/// What one of the services replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<T> {
    /// Its status.
    Status(T),
    /// The service is not on the bus.
    Absent,
    /// There is no bus, for this reason.
    NoBus(String),
    /// The call failed with this message.
    Failed(String),
}

impl<T> Reply<T> {
    /// The status, if the service replied.
    #[must_use]
    pub const fn status(&self) -> Option<&T> {
        match self {
            Self::Status(status) => Some(status),
            Self::Absent | Self::NoBus(_) | Self::Failed(_) => None,
        }
    }

    fn of(result: Result<T, Error>) -> Self {
        match result {
            Ok(status) => Self::Status(status),
            Err(Error::NotRunning { .. }) => Self::Absent,
            Err(error @ Error::NoBus { .. }) => Self::NoBus(error.to_string()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// What both services report.
#[derive(Debug)]
pub struct OnBus {
    /// The status of capture.
    pub capture: Reply<CaptureStatus>,
    /// The status of the actor.
    pub actor: Reply<ActorStatus>,
    /// The process of capture.
    pub capture_process: Option<u32>,
    /// The process of the actor.
    pub actor_process: Option<u32>,
    /// The domains.
    pub domains: Seen<Vec<Domain>>,
    /// The latest decisions, newest first.
    pub decisions: Seen<Vec<Decision>>,
    /// What the actor would do now with the denied packets, by the numbers of their decisions.
    pub explanations: BTreeMap<u64, Explanation>,
    /// The packets that capture remembers, oldest first.
    pub packets: Seen<Vec<Packet>>,
}

impl OnBus {
    /// Calls both services.
    pub async fn read(client: &Client) -> Self {
        let capture = Reply::of(client.capture_status().await);
        let actor = Reply::of(client.actor_status().await);
        let domains =
            client.domains().await.map_err(|error| unseen("the domains", &error, "wakevirtctl list"));
        let decisions = client.history(DECISIONS).await;
        let decisions =
            decisions.map_err(|error| unseen("the latest decisions", &error, "wakevirtctl history"));
        let packets = client.remembered().await;
        let packets = packets.map_err(|error| unseen("the latest packets", &error, "wakevirtctl monitor"));
        let mut explanations = BTreeMap::new();
        for decision in latest_denied(decisions.as_deref().unwrap_or_default()) {
            let mac = decision.mac.as_deref().unwrap_or_default();
            let now = client.explain(mac, &decision.details.packet()).await;
            explanations.extend(decision.number.zip(now.ok()));
        }
        Self {
            capture,
            actor,
            explanations,
            capture_process: process(client, Service::Capture).await,
            actor_process: process(client, Service::Actor).await,
            domains,
            decisions,
            packets,
        }
    }
}

fn unseen(what: &str, error: &Error, command: &str) -> crate::verbs::finding::NotChecked {
    not_checked(what, error.to_string(), format!("sudo {command}"))
}

/// The decisions that denied the latest packet for a domain.
fn latest_denied(decisions: &[Decision]) -> Vec<&Decision> {
    let mut latest: Vec<&Decision> = Vec::new();
    for decision in decisions.iter().filter(|it| it.details.trigger.as_deref() == Some("packet")) {
        if !latest.iter().any(|it| it.domain == decision.domain) {
            latest.push(decision);
        }
    }
    latest.retain(|decision| ["not-allowed", "bad-password"].contains(&decision.outcome.as_str()));
    latest.truncate(MAX_EXPLAINED);
    latest
}

/// The process that owns the name of a service.
async fn process(client: &Client, service: Service) -> Option<u32> {
    let bus = DBusProxy::new(client.connection().await.ok()?).await.ok()?;
    let name = BusName::try_from(service.bus_name()).ok()?;
    timeout(BUS_TIMEOUT, bus.get_connection_unix_process_id(name)).await.ok()?.ok()
}
