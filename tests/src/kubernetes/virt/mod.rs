//! A stand-in for KubeVirt: the subresources of virt-api, and the part of virt-controller that runs VirtualMachines.
//!
//! It works on the in-process API server and on a real one, through [`Objects`]. No guest runs.

pub mod machine;
mod strategy;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::kubernetes::kind::Kind;
use crate::kubernetes::status::Failure;
use strategy::{phase, set};

/// How often a change is tried again after another client changed the object.
const MAX_TRIES: u32 = 50;

/// The objects of an API server.
pub trait Objects: Send + Sync {
    /// Reads an object.
    fn read(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Value, Failure>> + Send;
    /// Creates an object.
    fn create(&self, kind: Kind, object: Value) -> impl Future<Output = Result<Value, Failure>> + Send;
    /// Replaces an object. Fails with 409 if it has another `resourceVersion` than the given one.
    fn replace(&self, kind: Kind, object: Value) -> impl Future<Output = Result<Value, Failure>> + Send;
    /// Deletes an object.
    fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How far a start proceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    /// The start was accepted, but there is no VirtualMachineInstance yet.
    Accepted,
    /// A VirtualMachineInstance in phase `Pending`.
    Pending,
    /// In phase `Scheduling`.
    Scheduling,
    /// In phase `Scheduled`.
    Scheduled,
    /// In phase `Running`.
    #[default]
    Running,
}

impl Stage {
    const WITH_INSTANCE: [(Self, &'static str); 4] = [
        (Self::Pending, "Pending"),
        (Self::Scheduling, "Scheduling"),
        (Self::Scheduled, "Scheduled"),
        (Self::Running, "Running"),
    ];
}

/// The stand-in for KubeVirt. By default, a started VirtualMachine runs at once.
#[derive(Debug, Default)]
pub struct KubeVirt {
    /// How far starts proceed, by `NAMESPACE/NAME`.
    holds: Mutex<HashMap<String, Stage>>,
}

impl KubeVirt {
    /// Makes starts of a VirtualMachine proceed only to this stage, until [`Self::release`].
    pub fn hold(&self, namespace: &str, name: &str, stage: Stage) {
        self.holds().insert(format!("{namespace}/{name}"), stage);
    }

    /// Lets a held VirtualMachine run.
    pub async fn release(&self, objects: &impl Objects, namespace: &str, name: &str) {
        self.holds().remove(&format!("{namespace}/{name}"));
        self.reconcile(objects, namespace, name).await;
    }

    /// Answers `PUT virtualmachines/NAME/start`.
    ///
    /// # Errors
    /// The refusals of virt-api.
    pub async fn start(&self, objects: &impl Objects, namespace: &str, name: &str) -> Result<(), Failure> {
        let missing = |_| Failure::new(404, format!("virtualmachine.kubevirt.io \"{name}\" not found"));
        let mut vm = objects.read(Kind::VirtualMachine, namespace, name).await.map_err(missing)?;
        let instance = objects.read(Kind::Instance, namespace, name).await.ok();
        let start = strategy::start(name, &vm, instance.as_ref())?;
        if start == strategy::Start::Nothing {
            return Ok(());
        }
        strategy::apply(start, &mut vm);
        // If another client changed the object in the meantime, KubeVirt's patch fails, too.
        objects.replace(Kind::VirtualMachine, vm).await.map(drop)
    }

    /// Answers `PUT virtualmachineinstances/NAME/unpause`.
    ///
    /// # Errors
    /// The refusals of virt-api.
    pub async fn unpause(&self, objects: &impl Objects, namespace: &str, name: &str) -> Result<(), Failure> {
        let missing =
            |_| Failure::new(404, format!("virtualmachineinstance.kubevirt.io \"{name}\" not found"));
        let instance = objects.read(Kind::Instance, namespace, name).await.map_err(missing)?;
        strategy::unpause(name, &instance)?;
        self.set_paused(objects, namespace, name, false).await;
        Ok(())
    }

    /// Runs a VirtualMachine if its run strategy or a start request demands it, as far as it is not held.
    pub async fn reconcile(&self, objects: &impl Objects, namespace: &str, name: &str) {
        let Ok(vm) = objects.read(Kind::VirtualMachine, namespace, name).await else { return };
        let instance = objects.read(Kind::Instance, namespace, name).await.ok();
        let is_final =
            instance.as_ref().is_some_and(|instance| ["Succeeded", "Failed"].contains(&phase(instance)));
        let wanted = match strategy::of(&vm) {
            "Always" => true,
            "Once" => !is_final,
            _ => !strategy::requests(&vm).is_empty() || (instance.is_some() && !is_final),
        };
        let limit = self.holds().get(&format!("{namespace}/{name}")).copied().unwrap_or_default();
        if !wanted || limit == Stage::Accepted {
            return;
        }
        if is_final {
            let _ = objects.delete(Kind::Instance, namespace, name).await;
        }
        if instance.is_none() || is_final {
            let metadata = json!({"namespace": namespace, "name": name});
            let (kind, version) = (Kind::Instance.name(), Kind::Instance.api_version());
            let instance = json!({
                "apiVersion": version, "kind": kind, "metadata": metadata, "status": {"phase": "Pending"},
            });
            let _ = objects.create(Kind::Instance, instance).await;
            change(objects, Kind::VirtualMachine, namespace, name, |vm| {
                set(vm, &["status", "created"], json!(true));
                set(vm, &["status", "stateChangeRequests"], json!([]));
                set(vm, &["status", "printableStatus"], json!("Starting"));
            })
            .await;
        }
        for (stage, phase) in Stage::WITH_INSTANCE {
            if stage > limit {
                return;
            }
            change(objects, Kind::Instance, namespace, name, |instance| {
                advance(instance, phase);
            })
            .await;
        }
        change(objects, Kind::VirtualMachine, namespace, name, |vm| {
            set(vm, &["status", "ready"], json!(true));
            set(vm, &["status", "printableStatus"], json!("Running"));
        })
        .await;
    }

    /// Sets a VirtualMachine's `printableStatus`, such as `ErrorUnschedulable`.
    pub async fn report(&self, objects: &impl Objects, namespace: &str, name: &str, status: &str) {
        change(objects, Kind::VirtualMachine, namespace, name, |vm| {
            set(vm, &["status", "printableStatus"], json!(status));
        })
        .await;
    }

    /// Pauses or unpauses a running VirtualMachineInstance.
    pub async fn set_paused(&self, objects: &impl Objects, namespace: &str, name: &str, paused: bool) {
        let conditions = if paused { json!([{"type": "Paused", "status": "True"}]) } else { json!([]) };
        change(objects, Kind::Instance, namespace, name, |instance| {
            set(instance, &["status", "conditions"], conditions.clone());
        })
        .await;
        let status = if paused { "Paused" } else { "Running" };
        self.report(objects, namespace, name, status).await;
    }

    /// Shuts a VirtualMachine down: if its strategy is Always, as a client would, which also makes it Halted, otherwise as
    /// its guest would. Then, the VirtualMachineInstance remains.
    pub async fn shut_down(&self, objects: &impl Objects, namespace: &str, name: &str) {
        let Ok(vm) = objects.read(Kind::VirtualMachine, namespace, name).await else { return };
        let remains = strategy::of(&vm) != "Always";
        if remains {
            change(objects, Kind::Instance, namespace, name, |instance| {
                set(instance, &["status", "phase"], json!("Succeeded"));
            })
            .await;
        } else {
            let _ = objects.delete(Kind::Instance, namespace, name).await;
        }
        change(objects, Kind::VirtualMachine, namespace, name, |vm| {
            if !remains {
                set(vm, &["spec", "runStrategy"], json!("Halted"));
            }
            set(vm, &["status"], json!({"created": remains, "ready": false, "printableStatus": "Stopped"}));
        })
        .await;
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<String, Stage>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets the phase of a VirtualMachineInstance, unless it has passed that phase.
fn advance(instance: &mut Value, to: &str) {
    let position = |phase: &str| Stage::WITH_INSTANCE.iter().position(|(_, name)| *name == phase);
    // A VirtualMachineInstance without a phase is new; one with another phase has ended.
    let is_new = phase(instance).is_empty();
    if is_new || position(phase(instance)).is_some_and(|from| Some(from) < position(to)) {
        set(instance, &["status", "phase"], json!(to));
    }
}

/// Changes an object, again if another client changed it in the meantime. Does nothing if it is missing.
async fn change(
    objects: &impl Objects,
    kind: Kind,
    namespace: &str,
    name: &str,
    edit: impl Fn(&mut Value) + Send + Sync,
) {
    for _ in 0..MAX_TRIES {
        let Ok(before) = objects.read(kind, namespace, name).await else { return };
        let mut after = before.clone();
        edit(&mut after);
        if after == before || !objects.replace(kind, after).await.is_err_and(|failure| failure.code == 409) {
            return;
        }
    }
}
