//! Writes decisions as Events of virtual machines:
//! <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>.

mod series;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout};
use wakevirt_actor::hypervisor::HypervisorError;
use wakevirt_actor::model::{Decision, Id, Outcome};
use wakevirt_service::logs::{Quota, kind};

use crate::client::{code, failed};
use series::{AllSeries, Change};

/// The controller that the Events name.
const CONTROLLER: &str = "wakevirt.org/wakevirt-kubevirt";
/// The maximum length of a note, in bytes.
const MAX_NOTE: usize = 1024;
/// The maximum length of the part of an Event's name that comes from its virtual machine.
const MAX_NAME: usize = 200;
/// How long a request can take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the decisions about the virtual machines of one cluster.
pub(crate) struct Events {
    uri: Arc<str>,
    decisions: broadcast::Receiver<Arc<Decision>>,
    series: AllSeries,
    /// The name of the node.
    instance: String,
    failures: Quota,
}

impl Events {
    /// Writes the decisions about this cluster.
    pub fn new(uri: &Arc<str>, decisions: broadcast::Receiver<Arc<Decision>>) -> Self {
        let (series, failures) = (AllSeries::default(), Quota::per_minute(1));
        Self { uri: Arc::clone(uri), decisions, series, instance: node(), failures }
    }

    /// Writes decisions until this future is dropped.
    pub async fn run(&mut self, client: &Client) {
        loop {
            let due = self.series.next_due();
            tokio::select! {
                decision = self.decisions.recv() => match decision {
                    Ok(decision) => self.write(client, &decision).await,
                    Err(RecvError::Lagged(missed)) => {
                        tracing::debug!("{missed} decisions do not become events: the API server is too slow");
                    }
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    while let Some(change) = self.series.due(Instant::now()) {
                        self.change(client, change).await;
                    }
                }
            }
        }
    }

    /// Writes a decision, or counts it. Only decisions that involve a rule become Events: anyone on the network can cause
    /// other decisions.
    async fn write(&mut self, client: &Client, decision: &Decision) {
        let Some((id, full_name)) = &decision.subject.domain else { return };
        if *id.connection != *self.uri || decision.subject.rule.is_none() {
            return;
        }
        let Some((namespace, name)) = full_name.split_once('/') else { return };
        let (key, now) = ((id.uuid, decision.outcome), Instant::now());
        if self.series.count(key, now) || !self.series.has_room(now) {
            return;
        }
        let event = self.event(decision, id, namespace, name);
        let event_name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        // Also if it cannot be created, so that a failure does not repeat with every packet.
        self.series.begin(key, namespace, &event_name, now);
        match timeout(TIMEOUT, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.report(&failed("create an event")(error)),
            Err(_) => tracing::debug!("the API server does not answer the creation of an event"),
        }
    }

    /// Writes the number of decisions to an Event.
    async fn change(&mut self, client: &Client, change: Change) {
        let api: Api<Event> = Api::namespaced(client.clone(), &change.namespace);
        let last = MicroTime(Timestamp::now());
        let series = json!({"series": {"count": change.count, "lastObservedTime": last}});
        let patch = Patch::Merge(series);
        match timeout(TIMEOUT, api.patch(&change.name, &PatchParams::default(), &patch)).await {
            Ok(Err(error)) if code(&error) == Some(404) => self.series.forget(&change.name),
            Ok(Err(error)) => self.report(&failed("change an event")(error)),
            Ok(Ok(_)) => {}
            Err(_) => tracing::debug!("the API server does not answer the change of an event"),
        }
    }

    fn event(&self, decision: &Decision, id: &Id, namespace: &str, name: &str) -> Event {
        let mut hasher = DefaultHasher::new();
        (&self.instance, decision.time, id.uuid, decision.outcome.as_str()).hash(&mut hasher);
        let prefix = name.get(..MAX_NAME).unwrap_or(name).trim_end_matches(['.', '-']);
        let warning = matches!(decision.outcome, Outcome::Failed | Outcome::BadPassword | Outcome::Expired);
        let mut note = decision.to_string();
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{prefix}.{:x}", hasher.finish())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some("Wake".to_owned()),
            reason: Some(camel_case(decision.outcome.as_str())),
            note: Some(note),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("kubevirt.io/v1".to_owned()),
                kind: Some("VirtualMachine".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: Some(id.uuid.to_string()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }

    fn report(&mut self, error: &HypervisorError) {
        if let Some(suppressed) = self.failures.take(std::time::Instant::now()) {
            let suppressed = (suppressed > 0).then_some(suppressed);
            tracing::warn!(
                MESSAGE_ID = kind::EVENT_NOT_WRITTEN,
                WAKEVIRT_CONNECTION = &*self.uri,
                WAKEVIRT_SUPPRESSED = suppressed,
                "a decision does not become an event on {}: {error}",
                self.uri
            );
        }
    }
}

/// The name of this node: the pod's environment contains it. Otherwise, the host name.
fn node() -> String {
    let hostname = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut name = std::env::var("NODE_NAME").unwrap_or_else(|_| hostname().trim().to_owned());
    name.truncate(name.floor_char_boundary(128));
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Converts `already-running` to `AlreadyRunning`.
fn camel_case(text: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        first.to_uppercase() + rest
    };
    text.split('-').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_camel_case() {
        assert_eq!(Outcome::ALL.map(|outcome| camel_case(outcome.as_str())).first().unwrap(), "Started");
        assert_eq!(camel_case("already-running"), "AlreadyRunning");
    }
}
