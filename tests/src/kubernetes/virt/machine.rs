//! VirtualMachine objects for tests.

use serde_json::{Value, json};

use super::strategy::set;

/// A VirtualMachine to create.
#[derive(Debug, Clone)]
pub struct VirtualMachine {
    object: Value,
}

impl VirtualMachine {
    /// A halted VirtualMachine with one interface. An empty `mac` leaves the address to KubeVirt.
    #[must_use]
    pub fn new(namespace: &str, name: &str, mac: &str) -> Self {
        let mut interface = json!({"name": "default", "bridge": {}});
        if !mac.is_empty() {
            set(&mut interface, &["macAddress"], json!(mac));
        }
        let domain =
            json!({"devices": {"interfaces": [interface]}, "resources": {"requests": {"memory": "64Mi"}}});
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "runStrategy": "Halted",
                "template": {"spec": {"domain": domain, "networks": [{"name": "default", "pod": {}}]}},
            },
        });
        Self { object }
    }

    /// Sets the run strategy.
    #[must_use]
    pub fn strategy(self, strategy: &str) -> Self {
        self.with("/spec/runStrategy", json!(strategy))
    }

    /// Adds a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.in_metadata("labels", key, value)
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.in_metadata("annotations", key, value)
    }

    /// Sets the field at a JSON pointer. The object that contains it is created if it is missing.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let path: Vec<&str> = pointer.split('/').skip(1).collect();
        set(&mut self.object, &path, value);
        self
    }

    /// Adds cloud-init data, so that the object has about this size in bytes.
    #[must_use]
    pub fn of_size(self, bytes: usize) -> Self {
        let padding = "#cloud-config ".repeat(bytes.saturating_sub(self.object.to_string().len()) / 14);
        let volume = json!({"name": "cloudinit", "cloudInitNoCloud": {"userData": padding}});
        self.with("/spec/template/spec/volumes", json!([volume]))
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &Value {
        &self.object
    }

    fn in_metadata(mut self, field: &str, key: &str, value: &str) -> Self {
        set(&mut self.object, &["metadata", field, key], json!(value));
        self
    }
}
