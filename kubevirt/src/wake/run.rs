//! Waits until a virtual machine runs.

use std::pin::pin;
use std::time::Duration;

use kube::Api;
use kube::runtime::watcher;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;

use super::call;
use super::cluster::Cluster;
use crate::machines::Machine;
use crate::machines::object::Instance;

/// How long an error in the status can be older than the start.
const STALE: Duration = Duration::from_secs(10);
/// The delay before a virtual machine is read again, or its VirtualMachineInstance is watched again after an error.
const DELAY: Duration = Duration::from_secs(1);

/// How a start ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// The virtual machine runs.
    Running,
    /// KubeVirt reports this status, which is an error.
    Error(String),
    /// The virtual machine no longer exists.
    Gone,
    /// It does not run yet, and has this status.
    TooLong(String),
}

/// Waits until the virtual machine runs, KubeVirt reports an error, or this time has passed. `before` is the virtual
/// machine before its start.
pub(super) async fn wait(cluster: &Cluster, before: &Machine, limit: Duration) -> Run {
    let begin = Instant::now();
    let mut changes = cluster.machines.changes();
    let instance = instance_runs(cluster, before);
    let mut instance = pin!(instance);
    loop {
        changes.mark_unchanged();
        let Some(machine) = cluster.machines.get(before.uuid) else { return Run::Gone };
        let mut check_at = begin + limit;
        if machine.error().is_some() && is_stale(&machine, before, begin) {
            check_at = check_at.min(begin + STALE);
        } else if end(&machine, before, begin).is_some() {
            // The watch can be older than the start.
            let current =
                call::read(cluster, before).await.ok().and_then(|object| Machine::read(&object).ok());
            if let Some(end) = current.and_then(|current| end(&current, before, begin)) {
                return end;
            }
            check_at = check_at.min(Instant::now() + DELAY);
        }
        tokio::select! {
            biased;
            () = &mut instance => return Run::Running,
            // The sender exists as long as the cluster.
            _changed = changes.changed() => {}
            () = sleep_until(check_at) => {}
        }
        if begin.elapsed() >= limit {
            return Run::TooLong(machine.status.into());
        }
    }
}

/// How the start ended, according to the status of the virtual machine.
fn end(machine: &Machine, before: &Machine, begin: Instant) -> Option<Run> {
    if machine.uuid != before.uuid {
        return Some(Run::Gone);
    }
    if matches!(&*machine.status, "Running" | "Migrating" | "Paused") {
        return Some(Run::Running);
    }
    let error = machine.error().filter(|_| !is_stale(machine, before, begin))?;
    Some(Run::Error(error.to_owned()))
}

/// Whether the status may be that from before the start: until KubeVirt has handled the start, it does not change.
fn is_stale(machine: &Machine, before: &Machine, begin: Instant) -> bool {
    machine.status == before.status && begin.elapsed() < STALE
}

/// Watches the VirtualMachineInstance by name until it runs. It can be missing at first.
async fn instance_runs(cluster: &Cluster, machine: &Machine) {
    let api: Api<Instance> = Api::namespaced(cluster.clients.watch.clone(), &machine.namespace);
    let mut instances = pin!(watcher::watch_object(api, &machine.name));
    while let Some(instance) = instances.next().await {
        match instance {
            Ok(Some(instance)) if instance.is_running() => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("watch of the instance of {} interrupted: {error}", machine.full_name());
                sleep(DELAY).await;
            }
        }
    }
    // The status of the virtual machine decides.
    std::future::pending::<()>().await;
}
