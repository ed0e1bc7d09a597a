//! The kinds of objects that the API server stores.

use serde_json::Value;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `kubevirt.io/v1` VirtualMachine.
    VirtualMachine,
    /// `kubevirt.io/v1` VirtualMachineInstance.
    Instance,
    /// `v1` Namespace.
    Namespace,
    /// `events.k8s.io/v1` Event.
    Event,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::VirtualMachine, Self::Instance, Self::Namespace, Self::Event];

    /// The API group, empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::VirtualMachine | Self::Instance => "kubevirt.io",
            Self::Namespace => "",
            Self::Event => "events.k8s.io",
        }
    }

    /// The name in paths and rules.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::VirtualMachine => "virtualmachines",
            Self::Instance => "virtualmachineinstances",
            Self::Namespace => "namespaces",
            Self::Event => "events",
        }
    }

    /// The `kind` of an object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtualMachine => "VirtualMachine",
            Self::Instance => "VirtualMachineInstance",
            Self::Namespace => "Namespace",
            Self::Event => "Event",
        }
    }

    /// The `apiVersion` of an object.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::VirtualMachine | Self::Instance => "kubevirt.io/v1",
            Self::Namespace => "v1",
            Self::Event => "events.k8s.io/v1",
        }
    }

    /// The name in messages, such as `virtualmachines.kubevirt.io`.
    #[must_use]
    pub fn qualified(self) -> String {
        qualified(self.group(), self.plural())
    }

    /// The path of an object, or with an empty name that of all objects in the namespace. `namespace` is empty for a
    /// kind without namespaces, and for all namespaces.
    #[must_use]
    pub fn path(self, namespace: &str, name: &str) -> String {
        let prefix = if self.group().is_empty() { "/api" } else { "/apis" };
        let namespace = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{prefix}/{}{namespace}/{}{name}", self.api_version(), self.plural())
    }

    /// The path of an object, or that of the collection in which it is created.
    pub(crate) fn path_of(self, object: &Value, with_name: bool) -> String {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let name = if with_name { text("/metadata/name") } else { "" };
        self.path(text("/metadata/namespace"), name)
    }

    pub(crate) fn find(group: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.group() == group && kind.plural() == plural)
    }
}

/// The name of a resource in messages.
pub(crate) fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
