//! What KubeVirt's subresources do for each run strategy: `pkg/virt-api/rest/lifecycle.go` in KubeVirt.

use serde_json::{Value, json};

use crate::kubernetes::status::Failure;

/// What a start does to a VirtualMachine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// `Halted` becomes `Always`.
    Always,
    /// `running: false` becomes `true`.
    Running,
    /// A start request is added to the status.
    Request,
    /// Nothing, although the reply is 202.
    Nothing,
}

/// The run strategy, also of a VirtualMachine with the older `running` field.
pub(super) fn of(vm: &Value) -> &str {
    match (vm.pointer("/spec/runStrategy").and_then(Value::as_str), vm.pointer("/spec/running")) {
        (Some(strategy), _) => strategy,
        (None, Some(Value::Bool(true))) => "Always",
        (None, _) => "Halted",
    }
}

/// The phase of a VirtualMachineInstance.
pub(super) fn phase(instance: &Value) -> &str {
    instance.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

/// Whether an object has a condition with this type and status `True`.
pub(super) fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition.get("type").is_some_and(|value| value == kind)
                && condition.get("status").is_some_and(|value| value == "True")
        })
    })
}

/// Decides what a start does.
pub(super) fn start(name: &str, vm: &Value, instance: Option<&Value>) -> Result<Start, Failure> {
    let conflict = |text: &str| {
        let message =
            format!("Operation cannot be fulfilled on virtualmachine.kubevirt.io \"{name}\": {text}");
        Err(Failure::new(409, message))
    };
    let phase = instance.map(phase);
    if phase.is_some_and(|phase| !["Succeeded", "Failed", "Unknown", ""].contains(&phase)) {
        return conflict("VM is already running");
    }
    if has_condition(vm, "ManualRecoveryRequired") {
        return conflict("VM recovery required");
    }
    let requested = !requests(vm).is_empty();
    match of(vm) {
        "Halted" if vm.pointer("/spec/runStrategy").is_some() => Ok(Start::Always),
        "Halted" => Ok(Start::Running),
        "WaitAsReceiver" => Ok(Start::Nothing),
        "RerunOnFailure" if phase == Some("Failed") => {
            conflict("RerunOnFailure does not support starting VM from failed state")
        }
        "Manual" | "RerunOnFailure" if requested => Err(Failure::new(
            500,
            "Internal error occurred: unable to complete request: stop/start already underway",
        )),
        "Manual" | "RerunOnFailure" => Ok(Start::Request),
        strategy => conflict(&format!("{strategy} does not support manual start requests")),
    }
}

/// Changes a VirtualMachine as [`start`] decided.
pub(super) fn apply(start: Start, vm: &mut Value) {
    match start {
        Start::Always => set(vm, &["spec", "runStrategy"], json!("Always")),
        Start::Running => set(vm, &["spec", "running"], json!(true)),
        Start::Request => set(vm, &["status", "stateChangeRequests"], json!([{"action": "Start"}])),
        Start::Nothing => {}
    }
}

/// Decides whether a VirtualMachineInstance can be unpaused.
pub(super) fn unpause(name: &str, instance: &Value) -> Result<(), Failure> {
    let text = if phase(instance) != "Running" {
        "VMI is not running"
    } else if !has_condition(instance, "Paused") {
        "VMI is not paused"
    } else if instance.pointer("/status/snapshotInProgress").is_some() {
        "VM snapshot is in progress"
    } else {
        return Ok(());
    };
    let message =
        format!("Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"{name}\": {text}");
    Err(Failure::new(409, message))
}

/// The state changes that were requested and not yet carried out.
pub(super) fn requests(vm: &Value) -> &[Value] {
    vm.pointer("/status/stateChangeRequests").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Sets a field, and creates the objects that contain it.
pub(super) fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut place = object;
    for key in parents {
        if !place.is_object() {
            *place = json!({});
        }
        let Some(fields) = place.as_object_mut() else { return };
        place = fields.entry((*key).to_owned()).or_insert_with(|| json!({}));
    }
    if let Some(fields) = place.as_object_mut() {
        fields.insert((*last).to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(strategy: &str) -> Value {
        json!({"spec": {"runStrategy": strategy}})
    }

    fn instance(phase: &str) -> Value {
        json!({"status": {"phase": phase}})
    }

    #[test]
    fn a_start_depends_on_the_run_strategy() {
        let code = |vm: &Value, phase: Option<&str>| {
            let instance = phase.map(instance);
            start("a", vm, instance.as_ref()).map_err(|failure| failure.code)
        };
        assert_eq!(code(&vm("Halted"), None), Ok(Start::Always));
        assert_eq!(code(&json!({"spec": {"running": false}}), None), Ok(Start::Running));
        assert_eq!(code(&json!({"spec": {"running": true}}), None), Err(409));
        assert_eq!(code(&vm("Always"), None), Err(409));
        assert_eq!(code(&vm("Once"), None), Err(409));
        assert_eq!(code(&vm("Manual"), None), Ok(Start::Request));
        assert_eq!(code(&vm("Manual"), Some("Succeeded")), Ok(Start::Request));
        assert_eq!(code(&vm("RerunOnFailure"), Some("Succeeded")), Ok(Start::Request));
        assert_eq!(code(&vm("RerunOnFailure"), Some("Failed")), Err(409));
        assert_eq!(code(&vm("WaitAsReceiver"), None), Ok(Start::Nothing));
        for phase in ["Pending", "Scheduling", "Scheduled", "Running"] {
            assert_eq!(code(&vm("Manual"), Some(phase)), Err(409), "{phase}");
        }
        let mut requested = vm("Manual");
        apply(Start::Request, &mut requested);
        assert_eq!(code(&requested, None), Err(500));
        let mut recovery = vm("Halted");
        set(
            &mut recovery,
            &["status", "conditions"],
            json!([{"type": "ManualRecoveryRequired", "status": "True"}]),
        );
        assert_eq!(code(&recovery, None), Err(409));
    }

    #[test]
    fn only_a_paused_instance_can_be_unpaused() {
        let mut paused = instance("Running");
        assert!(unpause("a", &paused).is_err());
        set(&mut paused, &["status", "conditions"], json!([{"type": "Paused", "status": "True"}]));
        assert_eq!(unpause("a", &paused), Ok(()));
        set(&mut paused, &["status", "phase"], json!("Scheduled"));
        assert!(unpause("a", &paused).is_err());
    }
}
