//! What the driver remembers of a virtual machine.

use core::fmt;
use std::sync::Arc;

use uuid::Uuid;
use wakevirt_actor::model::{Domain, Id, Labels, Pause, State, Stop};

use super::object::VirtualMachine;
use crate::uri::is_name;

/// The maximum number of interfaces that count.
const MAX_INTERFACES: usize = 64;
/// The maximum number of labels that count.
const MAX_LABELS: usize = 128;

/// A virtual machine, as last reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its UID, which no other virtual machine ever has.
    pub uuid: Uuid,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name in the namespace.
    pub name: Box<str>,
    /// Its run strategy.
    pub strategy: Strategy,
    /// Its `printableStatus`; empty if it has none yet.
    pub status: Box<str>,
    /// Whether it has a VirtualMachineInstance.
    pub created: bool,
    /// Why it is paused, if it is.
    pub paused: Option<Pause>,
}

/// When KubeVirt runs a virtual machine
/// (<https://kubevirt.io/user-guide/compute/run_strategies/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Never, until it is started.
    Halted,
    /// `running: false`, which means the same.
    NotRunning,
    /// Always.
    Always,
    /// `running: true`, which means the same.
    Running,
    /// When it is started.
    Manual,
    /// Until it succeeds.
    RerunOnFailure,
    /// Once.
    Once,
    /// When it arrives from another cluster.
    WaitAsReceiver,
    /// A strategy that this version does not know.
    Other,
}

impl Strategy {
    fn of(machine: &VirtualMachine) -> Self {
        match (machine.spec.run_strategy.as_deref(), machine.spec.running) {
            (Some("Halted"), _) => Self::Halted,
            (Some("Always"), _) => Self::Always,
            (Some("Manual"), _) => Self::Manual,
            (Some("RerunOnFailure"), _) => Self::RerunOnFailure,
            (Some("Once"), _) => Self::Once,
            (Some("WaitAsReceiver"), _) => Self::WaitAsReceiver,
            (Some(_), _) => Self::Other,
            (None, Some(true)) => Self::Running,
            (None, _) => Self::NotRunning,
        }
    }

    /// Whether KubeVirt does not run the virtual machine until its strategy changes.
    pub const fn is_halted(self) -> bool {
        matches!(self, Self::Halted | Self::NotRunning)
    }

    /// Whether KubeVirt starts the virtual machine by itself when it is off.
    const fn starts_by_itself(self) -> bool {
        matches!(self, Self::Always | Self::Running | Self::RerunOnFailure)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Halted => "runStrategy Halted",
            Self::NotRunning => "running false",
            Self::Always => "runStrategy Always",
            Self::Running => "running true",
            Self::Manual => "runStrategy Manual",
            Self::RerunOnFailure => "runStrategy RerunOnFailure",
            Self::Once => "runStrategy Once",
            Self::WaitAsReceiver => "runStrategy WaitAsReceiver",
            Self::Other => "an unknown runStrategy",
        })
    }
}

impl Machine {
    /// Reads an object.
    ///
    /// # Errors
    /// If the object has no usable name or UID.
    pub fn read(object: &VirtualMachine) -> Result<Self, &'static str> {
        let metadata = &object.metadata;
        let name = metadata.name.as_deref().filter(|name| is_name(name)).ok_or("it has no valid name")?;
        let namespace = metadata.namespace.as_deref().filter(|namespace| is_name(namespace));
        let namespace = namespace.ok_or("it has no valid namespace")?;
        let uuid = metadata.uid.as_deref().and_then(|uid| Uuid::parse_str(uid).ok());
        let paused = object.status.conditions.iter().find(|it| it.kind == "Paused" && it.status == "True");
        let pause = |reason: &str| match reason {
            "PausedIOError" => Pause::IoError,
            "PausedByMigrationMonitor" => Pause::Migration,
            _ => Pause::User,
        };
        let status = object.status.printable_status.as_deref().unwrap_or_default();
        let paused = paused.map(|it| pause(it.reason.as_deref().unwrap_or_default()));
        Ok(Self {
            uuid: uuid.ok_or("it has no valid UID")?,
            namespace: namespace.into(),
            name: name.into(),
            strategy: Strategy::of(object),
            status: status.chars().take(64).collect::<String>().into(),
            created: object.status.created,
            paused: paused.or((status == "Paused").then_some(Pause::User)),
        })
    }

    /// Its name, with its namespace.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its state.
    pub fn state(&self) -> State {
        if self.strategy == Strategy::WaitAsReceiver {
            return State::MigratedAway;
        }
        match (&*self.status, self.paused) {
            ("WaitingForReceiver", _) => State::MigratedAway,
            ("Stopping" | "Terminating", _) => State::ShuttingDown,
            ("Running" | "Paused", Some(pause)) => State::Paused(pause),
            ("Running" | "Migrating", _) => State::Running,
            // If the guest has powered itself off, the VirtualMachineInstance can remain.
            ("Stopped", _) => State::ShutOff,
            ("", _) if !self.created => State::ShutOff,
            ("CrashLoopBackOff", _) => State::Crashed,
            ("Unknown", _) => State::Unknown,
            // It is off, and would not start. A status such as Provisioning or an error does not depend on the strategy.
            (_, _) if !self.created && self.strategy.is_halted() => State::ShutOff,
            (_, _) if !self.created && self.error().is_some() && !self.strategy.starts_by_itself() => {
                State::ShutOff
            }
            // Provisioning, Starting, waiting for a volume, or an error that KubeVirt continues to try to overcome.
            _ => State::Paused(Pause::StartingUp),
        }
    }

    /// The status, if it is an error.
    pub fn error(&self) -> Option<&str> {
        let is_error = matches!(
            &*self.status,
            "CrashLoopBackOff" | "ErrImagePull" | "ImagePullBackOff" | "DataVolumeError"
        ) || self.status.starts_with("Error");
        is_error.then_some(&*self.status)
    }
}

/// The virtual machine as a domain.
pub(crate) fn domain(connection: &Arc<str>, machine: &Machine, object: &VirtualMachine) -> Domain {
    let macs = object.spec.macs().take(MAX_INTERFACES).filter_map(|mac| mac.parse().ok()).collect();
    let labels = object.labels.iter().take(MAX_LABELS);
    Domain {
        id: Id { connection: Arc::clone(connection), uuid: machine.uuid },
        name: machine.full_name(),
        macs,
        opt_in: object.wake.as_deref() == Some("true"),
        labels: Labels::new(labels.map(|(key, value)| (key.as_str(), value.as_str()))),
        state: machine.state(),
        stop: Stop::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: &Value, status: &Value) -> VirtualMachine {
        let metadata = json!({
            "name": "vm1", "namespace": "web", "uid": "00000000-0000-0000-0000-000000000001",
            "labels": {"app": "web"}, "annotations": {"wakevirt.org/wake": "true", "x": "y"},
            "managedFields": [{"fieldsV1": {}}],
        });
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn reads_names_addresses_labels_and_the_opt_in() {
        let interfaces = json!([{"macAddress": "52:54:00:00:00:01"}, {"name": "b"}, {"macAddress": "52-54-00-00-00-02"}, {"macAddress": "no"}]);
        let spec =
            json!({"template": {"spec": {"domain": {"devices": {"interfaces": interfaces}, "cpu": {}}}}});
        let object = object(&spec, &json!({}));
        let machine = Machine::read(&object).unwrap();
        let domain = domain(&"kubevirt://".into(), &machine, &object);
        assert_eq!((domain.name.as_str(), domain.id.uuid), ("web/vm1", Uuid::from_u128(1)));
        let macs: Vec<String> = domain.macs.iter().map(ToString::to_string).collect();
        assert_eq!(macs, ["52:54:00:00:00:01", "52:54:00:00:00:02"]);
        assert!(domain.opt_in && domain.labels.get("app") == Some("web"));
        let empty: VirtualMachine = serde_json::from_value(json!({})).unwrap();
        assert!(Machine::read(&empty).is_err());
    }

    #[test]
    fn the_state_follows_from_the_strategy_and_the_status() {
        use State::{Crashed, MigratedAway, Paused, Running, ShutOff, ShuttingDown, Unknown};
        let starting = Paused(Pause::StartingUp);
        for (spec, status, state) in [
            (json!({"runStrategy": "Halted"}), json!({}), ShutOff),
            (json!({"running": false}), json!({"printableStatus": "Stopped"}), ShutOff),
            (json!({"runStrategy": "Always"}), json!({"printableStatus": "Stopped"}), ShutOff),
            (json!({"runStrategy": "Halted"}), json!({"printableStatus": "ErrorPvcNotFound"}), ShutOff),
            (json!({"runStrategy": "Always"}), json!({"printableStatus": "ErrorPvcNotFound"}), starting),
            (
                json!({"runStrategy": "Manual"}),
                json!({"printableStatus": "Starting", "created": true}),
                starting,
            ),
            (json!({"runStrategy": "Always"}), json!({"printableStatus": "Provisioning"}), starting),
            (
                json!({"runStrategy": "Always"}),
                json!({"printableStatus": "Running", "created": true}),
                Running,
            ),
            (
                json!({"runStrategy": "Always"}),
                json!({"printableStatus": "Migrating", "created": true}),
                Running,
            ),
            (json!({}), json!({"printableStatus": "Paused", "created": true}), Paused(Pause::User)),
            (
                json!({}),
                json!({"printableStatus": "Paused", "conditions": [{"type": "Paused", "status": "True", "reason": "PausedIOError"}]}),
                Paused(Pause::IoError),
            ),
            (
                json!({"runStrategy": "Halted"}),
                json!({"printableStatus": "Stopping", "created": true}),
                ShuttingDown,
            ),
            (json!({"runStrategy": "Always"}), json!({"printableStatus": "CrashLoopBackOff"}), Crashed),
            (json!({"runStrategy": "WaitAsReceiver"}), json!({"printableStatus": "Stopped"}), MigratedAway),
            (
                json!({"runStrategy": "Always"}),
                json!({"printableStatus": "Unknown", "created": true}),
                Unknown,
            ),
        ] {
            assert_eq!(Machine::read(&object(&spec, &status)).unwrap().state(), state, "{spec} {status}");
        }
    }

    #[test]
    fn a_machine_without_a_running_guest_is_off() {
        let ended = object(
            &json!({"runStrategy": "Manual"}),
            &json!({"printableStatus": "Stopped", "created": true}),
        );
        let halted = object(&json!({"runStrategy": "Halted"}), &json!({"printableStatus": "Provisioning"}));
        for object in [ended, halted] {
            assert_eq!(Machine::read(&object).unwrap().state(), State::ShutOff);
        }
    }
}
